"""Do for cookiecutter what copier does by itself: leave paths out, record answers, tell next steps (M2).

The record is copier's own answers file, so `copier update` takes the project over.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from jinja2.sandbox import SandboxedEnvironment

# URL-encoded, so that this file is valid Python before cookiecutter renders it and after.
CONTEXT = "{{ cookiecutter | tojson | urlencode }}"

ANSWERS_FILE = ".copier-answers.yml"
MANIFEST = "chassis/owned.sha256"
NO_RECORD = "# no record: no update can come\n"
UNRECORDED = """\
The answers were not recorded, because the template is {reason}.
`copier update` cannot bring later fixes into this project. To change that, remove it and generate it again,
either from the template's git URL or from the absolute path of a git clone of it.
"""
CHANGED = """\
The template's clone has changes that are not committed. They are in this project, but not in the version that
it records.
"""


class Unrecorded(Exception):
    """The template has no version that `copier update` could find again; the text says why."""


def render(text: str, context: dict[str, Any], **more: Any) -> str:
    """Return the text rendered as copier would render it."""
    return SandboxedEnvironment(**context["_jinja2_env_vars"]).from_string(text).render(context, **more)


def prune(project: Path, context: dict[str, Any]) -> None:
    """Delete what copier's `_exclude` leaves out."""
    for rule in context["_prune"]:
        # To copier a slash in front means the project's root, where globs begin anyway.
        pattern = render(rule, context).strip().lstrip("/")
        for path in sorted(project.glob(pattern)) if pattern else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest(project: Path) -> None:
    """Put the digests of each file and of the list into the manifest; copier has a filter for that (M4)."""
    lines = (project / MANIFEST).read_text(encoding="utf-8").splitlines()
    paths = "\n".join(line for line in lines if not line.startswith("#"))
    for number, line in enumerate(lines):
        if not line.startswith("#"):
            lines[number] = f"{hashlib.sha256((project / line).read_bytes()).hexdigest()}  {line}"
    lines.append(f"# paths  {hashlib.sha256(paths.encode()).hexdigest()}")
    (project / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def git(repository: Path, *arguments: str) -> str:
    """Return the output of git, or nothing when it fails."""
    command = ["git", "-C", str(repository), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def without_secrets(url: str) -> str:
    """Return the URL without a token or password; the user of ssh stays, it is part of the address."""
    url = re.sub(r"^(https?://)[^/@]*@", r"\1", url)
    return re.sub(r"^(ssh://[^/@:]*):[^/@]*@", r"\1@", url)


def recognisable(url: str) -> str:
    """Return the URL so that copier takes it for a git repository's, which it tells by end, host or prefix."""
    known = url.startswith(("https://github.com/", "https://gitlab.com/", "git://")) or url.endswith(".git")
    return url if known or "://" not in url else f"git+{url}"


def source(context: dict[str, Any]) -> dict[str, str]:
    """Return where `copier update` finds the template, and the version that was rendered.

    Raises:
        Unrecorded: If the template is not at the top of a git clone, or its path is relative.
    """
    # cruft sets no `_repo_dir` and keeps a record of its own.
    repository = Path(context.get("_repo_dir", ""))
    if not repository.is_absolute():
        raise Unrecorded("given by a relative path, or cruft keeps the record")
    commit = git(repository, "describe", "--tags", "--always") if (repository / ".git").exists() else ""
    if not commit:
        raise Unrecorded("not a git clone with a commit")
    if Path(context["_template"]).expanduser().is_dir():
        if git(repository, "status", "--porcelain"):
            print(CHANGED, file=sys.stderr)
        return {"_commit": commit, "_src_path": str(repository)}
    # An abbreviation such as gh: is cookiecutter's own; the clone knows the whole address.
    address = git(repository, "config", "--get", "remote.origin.url") or context["_template"]
    return {"_commit": commit, "_src_path": recognisable(without_secrets(address))}


def record(project: Path, context: dict[str, Any]) -> None:
    """Write the answers file, or say why there is none."""
    answers = {name: answer for name, answer in context.items() if not name.startswith("_")}
    try:
        answers |= source(context)
    except Unrecorded as error:
        print(UNRECORDED.format(reason=error), file=sys.stderr)
        # In front, where no update of a project that got a record later meets it.
        text = (project / MANIFEST).read_text(encoding="utf-8")
        (project / MANIFEST).write_text(NO_RECORD + text, encoding="utf-8", newline="\n")
        return
    header = "# Changes here will be overwritten by Copier; NEVER EDIT MANUALLY\n"
    text = header + yaml.safe_dump(answers, allow_unicode=True, sort_keys=True, indent=4, width=sys.maxsize)
    (project / ANSWERS_FILE).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Finish the project in the working directory, where cookiecutter runs its hooks."""
    project, context = Path.cwd(), json.loads(unquote(CONTEXT))
    prune(project, context)
    digest(project)
    record(project, context)
    print(render(context["_message_after_copy"], context, _copier_conf={"dst_path": project}))


if __name__ == "__main__":
    main()
