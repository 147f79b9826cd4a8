"""Derive `chassis/owned.sha256` of a project, the list of what is the template's, from tree and `copier.yml` (M4).

python scripts/derive_owned.py            write it
python scripts/derive_owned.py --check    exit 1 if the file in the tree is another one

The list is derived, the digests are not: they are taken when a project is rendered, by copier's own filter `hash`, and
where there is none, in cookiecutter, by the hook. So a changed file needs no new list, and no engine an extension.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, meta
from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "{{cookiecutter.project_slug}}"
MANIFEST = "chassis/owned.sha256"
RULE = re.compile(r"\{% if (?P<condition>.+?) %\}(?P<pattern>.+)\{% endif %\}")
SEEDED = "_copier_operation == 'update'"

HEAD = """\
# Template-owned: updates replace it. Every other file of the template's, as it was rendered. `check ownership` compares
# and tells what to use instead; sha256sum --check --quiet compares, too, if the ends of lines are those of the render.
"""
TAIL = """\
{% set left = detached | default([]) %}
{% set paths = (owned + left) | unique(case_sensitive=true) | sort(case_sensitive=true) %}
{% for path in paths %}
{% if path in left %}
# detached  {{ path }}
{% elif "hash" is filter %}
{% set text %}{% include ["FOLDER/" ~ path] %}{% endset %}
{{ text | hash("sha256") }}  {{ path }}
{% else %}
{{ path }}
{% endif %}
{% endfor %}
{% if "hash" is filter %}
# paths  {{ paths | join("\\n") | hash("sha256") }}
{% endif %}
""".replace("FOLDER", FOLDER)


def tracked() -> list[str]:
    """Return the template's files that are committed, or would be by `git add --all`, from the project's root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", FOLDER]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name for name in listing.split("\0") if name and (ROOT / name).is_file()}
    return sorted(name.removeprefix(f"{FOLDER}/") for name in names)


def owned(names: Iterable[str], rules: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Group the template's own files by the conditions under which they are left out; yours are not among them.

    Raises:
        ValueError: If the name of one depends on an answer, which no list could hold.
    """
    parts = [(found["condition"], found["pattern"]) for found in map(RULE.fullmatch, rules) if found]
    yours = GitIgnoreSpec.from_lines(pattern for condition, pattern in parts if condition == SEEDED)
    left_out = [(one, GitIgnoreSpec.from_lines([pattern])) for one, pattern in parts if one != SEEDED]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        rendered = name.removeprefix("{{'").removesuffix("'}}")
        if name == MANIFEST or "_copier_conf" in name or yours.match_file(rendered):
            continue
        if "{" in name:
            raise ValueError(f"{name} is the template's, so its name must not depend on an answer")
        groups.setdefault(tuple(one for one, spec in left_out if spec.match_file(name)), []).append(name)
    return groups


def derive(names: Iterable[str], config: dict[str, Any]) -> str:
    """Return the template of the manifest."""
    groups = owned(names, config["_exclude"])
    conditions = {one for group in groups for one in group}
    used = sorted(
        set().union(*(meta.find_undeclared_variables(Environment().parse(f"{{{{ {one} }}}}")) for one in conditions))
    )
    text = HEAD + "".join(f"{{% set {name} = cookiecutter.{name} %}}\n" for name in used)
    for group, members in sorted(groups.items()):
        listed = "".join(f'  "{name}",\n' for name in members)
        if not group:
            text += f"{{% set owned = [\n{listed}] %}}\n"
            continue
        wanted = " and ".join(f"not ({one})" for one in group)
        text += f"{{% if {wanted} %}}\n{{% set owned = owned + [\n{listed}] %}}\n{{% endif %}}\n"
    return text + TAIL


def main() -> int:
    """Write or check the file, and return the exit code."""
    parser = argparse.ArgumentParser(description=f"Derive {MANIFEST} of the project.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if it is out of date")
    arguments = parser.parse_args()
    wanted = derive(tracked(), yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8")))
    target = ROOT / FOLDER / MANIFEST
    if not arguments.check:
        target.write_text(wanted, encoding="utf-8", newline="\n")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == wanted:
        return 0
    print("it does not follow the tree and copier.yml; run: python scripts/derive_owned.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
