"""Refuse bad answers by the validators of `copier.yml`, before cookiecutter writes a file (M1)."""

from __future__ import annotations

import json
import re
import sys
from typing import Any
from urllib.parse import unquote

from jinja2.sandbox import SandboxedEnvironment

# URL-encoded, so that this file is valid Python before cookiecutter renders it and after.
CONTEXT = "{{ cookiecutter | tojson | urlencode }}"


def regex_search(value: str, pattern: str) -> str | None:
    """Return the first match, like the Ansible filter that copier brings along."""
    match = re.search(pattern, value)
    return match.group() if match else None


def problems(context: dict[str, Any]) -> list[str]:
    """Return a line for each answer that a validator refuses."""
    environment = SandboxedEnvironment(**context["_jinja2_env_vars"])
    environment.filters["regex_search"] = regex_search
    found = []
    for name, rule in context["_rules"].items():
        message = environment.from_string(rule).render(context)
        if message.strip():
            found.append(f"{name}: {' '.join(message.split())}")
    return found


if __name__ == "__main__":
    refusals = problems(json.loads(unquote(CONTEXT)))
    print(*refusals, sep="\n", end="\n" if refusals else "", file=sys.stderr)
    sys.exit(1 if refusals else 0)
