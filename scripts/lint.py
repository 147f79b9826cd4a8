"""Run every check that needs no render: style, types, derived files, shell scripts, unwanted content.

All checks run, also after a failure, so that one run shows everything.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LOCKS = re.compile(r"(^|/)(\w+\.lock|package-lock\.json|npm-shrinkwrap\.json|pnpm-lock\.yaml)$", flags=re.IGNORECASE)
REGISTRY_HOSTS = re.compile(
    r"pypi\.org|pythonhosted\.org|npmjs\.(org|com)|registry\.yarnpkg\.com"
    r"|(deb|security)\.debian\.org|archive\.ubuntu\.com|crates\.io|rubygems\.org",
    flags=re.IGNORECASE,
)
"""A tree that names one cannot be installed where a mirror is the only registry."""
LONGEST_FILE, LONGEST_FUNCTION = 300, 50
LARGEST = {"the server": 7110, "the checks": 2830}
"""Lines of code of the chassis, by who runs them: a process that serves, or a pipeline."""
"""Lines; CONTRIBUTING.md promises them."""


def tracked() -> list[str]:
    """Return the files that are committed, or would be by `git add --all`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(listing.split("\0")) if name and (ROOT / name).is_file())


def text_of(name: str) -> str:
    """Return a file's text; what is not text reads as nothing."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def unwanted() -> list[str]:
    """Return a line for each tracked lock file and each line that names a registry host."""
    found = [f"{name}: is a lock; locks are not committed" for name in tracked() if LOCKS.search(name)]
    for name in tracked():
        for number, line in enumerate(text_of(name).splitlines(), start=1):
            if host := REGISTRY_HOSTS.search(line):
                found.append(f"{name}:{number}: names the registry host {host.group()}; say it without")
    return found


def lines_of_code(lines: Sequence[str], tree: ast.AST) -> int:
    """Count the lines that are neither blank nor comment nor docstring."""
    texts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for part in node.body:
                if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant):
                    texts.update(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    code = (number for number, line in enumerate(lines, start=1) if line.strip() and not line.lstrip().startswith("#"))
    return sum(number not in texts for number in code)


def too_long() -> list[str]:
    """Return each Python file and function that is longer than a reader keeps in mind, and an oversized chassis."""
    found, sizes = [], dict.fromkeys(LARGEST, 0)
    for name in (name for name in tracked() if name.endswith(".py")):
        lines = text_of(name).splitlines()
        if len(lines) > LONGEST_FILE:
            found.append(f"{name}: has {len(lines)} lines; {LONGEST_FILE} is the bound")
        tree = ast.parse("\n".join(lines))
        if "/mcp_chassis/" in name:
            sizes["the checks" if "/checks/" in name else "the server"] += lines_of_code(lines, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    found.append(
                        f"{name}:{node.lineno}: {node.name} has {length} lines; {LONGEST_FUNCTION} is the bound"
                    )
    for part, size in sizes.items():
        if size > LARGEST[part]:
            found.append(f"{part} of the chassis have {size} lines of code; {LARGEST[part]} is the bound")
    return found


def shell_scripts() -> list[str]:
    """Return the tracked shell scripts, by their name or their first line."""
    first_line = re.compile(r"#!.*\b(ba|da)?sh\n")
    return [name for name in tracked() if name.endswith(".sh") or first_line.match(text_of(name))]


def program(*command: str) -> Callable[[], list[str]]:
    """Return a check that runs a program and shows its output when it fails."""

    def run() -> list[str]:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return (done.stdout.splitlines() or [f"exit status {done.returncode}"]) if done.returncode else []

    return run


def checks() -> Sequence[tuple[str, Callable[[], list[str]]]]:
    """Return every check with the name that the report gives it."""
    return [
        ("style: ruff check", program("ruff", "check", "--quiet", ".")),
        ("layout: ruff format", program("ruff", "format", "--check", "--quiet", ".")),
        ("types: mypy", program("mypy", "--no-error-summary")),
        ("cookiecutter.json", program(sys.executable, "scripts/derive_cookiecutter.py", "--check")),
        ("chassis/owned.sha256", program(sys.executable, "scripts/derive_owned.py", "--check")),
        ("shell: shellcheck", program("shellcheck", "--external-sources", *shell_scripts())),
        ("locks and registry hosts", unwanted),
        ("sizes", too_long),
    ]


def main() -> int:
    """Print a line for each check and what it found; return the exit code."""
    failed = False
    for name, check in checks():
        started = time.monotonic()
        found = check()
        failed = failed or bool(found)
        mark, seconds = "FAILED" if found else "ok", time.monotonic() - started
        print(f"  {mark:6}  {name} ({seconds:.1f} s)", *found, sep="\n          ", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
