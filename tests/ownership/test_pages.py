"""docs/ownership.md shows what the commands print, lists what the code has, and its CODEOWNERS sample is right (M4)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pathspec import GitIgnoreSpec

from mcp_chassis.checks.ownership import INSTEAD, ownership
from tests.ownership.conftest import page
from tests.render.support import by_copier, files, is_yours

PAGE = page("ownership.md")


def masked(text: str) -> str:
    """Return a report without the numbers of files, which change with every version."""
    return re.sub(r"\d+ (template|yours|files)", r"N \1", text)


def test_M4_page_shows_what_the_commands_print(project: Path, shell: Callable[[str, Path], str]) -> None:
    shown = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)

    for text in shown:
        commands = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        output = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("$ "))
        assert masked(shell(f"{commands} || [ $? = 1 ]", project)) == masked(output)
    assert len(shown) == 2


def test_M4_page_lists_what_to_use_instead_and_every_check() -> None:
    rows = re.findall(r"^\| `(\S+/|\S*Dockerfile|\S+\.\w+|\.\w+)` \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
    checks = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+\.) \|$", PAGE, flags=re.MULTILINE)

    assert dict(rows) == {start: words for start, words in INSTEAD.items() if start}
    assert [row[:3] for row in checks] == [(check.name, check.id, check.rule) for check in ownership]


def test_M4_page_names_the_owner_of_every_file() -> None:
    table = PAGE.partition("| owner | files |")[2].partition("\n\n")[0]
    yours, templates = (
        GitIgnoreSpec.from_lines(f"/{name}" for row in rows for name in re.findall(r"`([^` ]+)`", row))
        for rows in (
            [row for row in table.splitlines() if row.startswith("| you |")],
            [row for row in table.splitlines() if row.startswith("| the template |")],
        )
    )
    everything = (("database", "postgres"), ("ci", "both"), ("delivery", "gitops"))

    for name in files(by_copier(everything)):
        # Of deploy/ the template owns the rest.
        assert yours.match_file(name) is is_yours(name), name
        assert yours.match_file(name) or templates.match_file(name), name


def test_M4_codeowners_sample_gives_the_templates_files_to_the_platform_team() -> None:
    sample = PAGE.partition("## CODEOWNERS")[2].partition("```text\n")[2].partition("```")[0]
    rules = [(GitIgnoreSpec.from_lines([pattern]), team) for pattern, team in map(str.split, sample.splitlines())]
    everything = (("database", "postgres"), ("ci", "both"), ("delivery", "gitops"))
    own = {"deploy/compose.override.yaml", ".github/workflows/own.yaml", "deploy/nginx/conf.d/x.http.conf"}

    for name in {*files(by_copier(everything)), *own}:
        team = [team for spec, team in rules if spec.match_file(name)][-1]
        assert team == ("@acme/notes" if is_yours(name) or name in own else "@acme/platform"), name
