"""Each hardening fix of CHANGELOG.md has an id of its own, a severity, and says what it protects from (M3)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.render.support import ROOT

ENTRY = re.compile(r"- \*\*(MC-20\d\d-\d{3})\*\* \((low|medium|high|critical)\): .{20,}")


def problems(changelog: str) -> list[str]:
    """Return what is wrong with the hardening entries of a changelog, newest release first."""
    found, ids = [], []
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        release, _, text = section.partition("\n")
        plain, _, fixes = text.partition("### Hardening fixes\n")
        found += [f"{release}: {one} stands outside of its part" for one in re.findall(r"MC-\d+-\d+", plain)]
        entries = re.findall(r"^- .*", fixes, flags=re.MULTILINE)
        found += [
            f"{release}: {entry.split(': ')[0]} is not of the form: - **MC-2026-001** (high): what it protects from"
            for entry in entries
            if not ENTRY.match(entry)
        ]
        if "### Hardening fixes\n" in text and not entries:
            found.append(f"{release}: names no fix")
        ids.append([match[1] for entry in entries if (match := ENTRY.match(entry))])
    years: dict[str, list[str]] = {}
    for one in [one for release in reversed(ids) for one in release]:
        years.setdefault(one[3:7], []).append(one[8:])
    for year, numbers in years.items():
        if numbers != [f"{number:03}" for number in range(1, len(numbers) + 1)]:
            found.append(f"{year}: {', '.join(numbers)} are not 001 and so on, the oldest first")
    return found


def test_M3_each_hardening_fix_has_an_id_a_severity_and_a_meaning() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert problems(changelog) == []
    assert len(ENTRY.findall(changelog)) >= 16


def test_M3_no_page_names_a_fix_that_the_changelog_does_not_have() -> None:
    known = {one for one, _ in ENTRY.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))}
    pages = [*ROOT.glob("*.md"), *Path(ROOT / "docs").glob("*.md")]

    named = {one for page in pages for one in re.findall(r"MC-\d{4}-\d{3}", page.read_text(encoding="utf-8"))}

    assert named - known == set()


HEAD = "## 1.1.0\n\n### Hardening fixes\n\n"


@pytest.mark.parametrize(
    ("changelog", "told"),
    [
        (HEAD + "- **MC-2026-001** (grave): nobody gets in any more.\n", "1.1.0: - **MC-2026-001** (grave) is not"),
        (HEAD + "- nobody gets in any more\n", "1.1.0: - nobody gets in any more is not"),
        (HEAD + "- **MC-2026-001** (low): mended\n", "1.1.0: - **MC-2026-001** (low) is not"),
        (HEAD + 2 * "- **MC-2026-001** (low): nobody gets in any more.\n", "2026: 001, 001 are not"),
        (HEAD + "- **MC-2026-002** (low): nobody gets in any more.\n", "2026: 002 are not"),
        (HEAD, "1.1.0: names no fix"),
        ("## 1.1.0\n\n- MC-2026-001, mended.\n", "1.1.0: MC-2026-001 stands outside"),
    ],
)
def test_M3_wrong_entry_is_told(changelog: str, told: str) -> None:
    (found,) = problems(changelog)

    assert found.startswith(told)
