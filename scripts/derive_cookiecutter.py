"""Derive `cookiecutter.json` from `copier.yml`, the one place where questions are written (M2).

python scripts/derive_cookiecutter.py            write it
python scripts/derive_cookiecutter.py --check    exit 1 if the file in the tree is another one
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, meta

ROOT = Path(__file__).resolve().parent.parent
BRIDGE = "cookiecutter"
"""The hidden question that gives copier the names that cookiecutter has."""

FOR_UPDATES = re.compile("_copier_operation|detached")
"""In the patterns that leave nothing out when a project is made."""

SHARED_JINJA_OPTIONS = ("trim_blocks", "lstrip_blocks")


def qualified(expression: str, names: Iterable[str]) -> str:
    """Return the expression with every answer it uses taken from cookiecutter's one variable."""
    used = meta.find_undeclared_variables(Environment().parse(expression))
    imports = (f"{{% set {name} = cookiecutter.{name} %}}" for name in names if name in used)
    return "".join(imports) + expression


def prompt(question: dict[str, Any]) -> str | dict[str, str]:
    """Return what cookiecutter shows for a question: its help, and a label for each choice."""
    choices: dict[str, str] | None = question.get("choices")
    if choices is None:
        return str(question["help"])
    return {"__prompt__": question["help"]} | {value: label for label, value in choices.items()}


def default(question: dict[str, Any], names: Iterable[str]) -> str | list[str] | dict[str, Any]:
    """Return cookiecutter's default: an expression, the choices with the default in front, or a mapping."""
    if "choices" in question:
        return sorted(question["choices"].values(), key=lambda value: value != question["default"])
    if question["type"] == "yaml":
        mapping: dict[str, Any] = yaml.safe_load(question["default"])
        return mapping
    return qualified(question["default"], names)


def derive(config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `cookiecutter.json` for the content of `copier.yml`."""
    questions = {name: question for name, question in config.items() if not name.startswith("_")}
    asked = {name: question for name, question in questions.items() if "when" not in question}
    document: dict[str, Any] = {name: default(question, asked) for name, question in asked.items()}
    for name, question in questions.items():
        if question.get("when") is False and name != BRIDGE:
            document[f"__{name}"] = qualified(question["default"], asked)
    document["__prompts__"] = {name: prompt(question) for name, question in asked.items()}
    # One underscore keeps cookiecutter from rendering these; the hooks do that.
    rules = {name: question.get("validator") for name, question in asked.items()}
    document["_rules"] = {name: rule for name, rule in rules.items() if rule}
    document["_prune"] = [pattern for pattern in config["_exclude"] if not FOR_UPDATES.search(pattern)]
    document["_message_after_copy"] = config["_message_after_copy"]
    document["_jinja2_env_vars"] = {option: config["_envops"][option] for option in SHARED_JINJA_OPTIONS}
    document["_new_lines"] = "\n"
    return document


def main() -> int:
    """Write or check the file, and return the exit code."""
    parser = argparse.ArgumentParser(description="Derive cookiecutter.json from copier.yml.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if it is out of date")
    arguments = parser.parse_args()
    config = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    wanted = json.dumps(derive(config), indent=2, ensure_ascii=False) + "\n"
    target = ROOT / "cookiecutter.json"
    if not arguments.check:
        target.write_text(wanted, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == wanted:
        return 0
    print("it does not follow copier.yml; run: python scripts/derive_cookiecutter.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
