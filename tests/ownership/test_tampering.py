"""What hides an edit from `check ownership` is told itself, and what is no edit is not (M4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mcp_chassis.checks.ownership import ANSWERS, MANIFEST, NO_RECORD
from tests.ownership.conftest import command, failures
from tests.render.support import by_cookiecutter

FILE = "deploy/nginx/nginx.conf"
pytestmark = pytest.mark.usefixtures("project")


def manifest(change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of the manifest."""
    lines = Path(MANIFEST).read_text(encoding="utf-8").splitlines()
    Path(MANIFEST).write_text("".join(f"{line}\n" for line in change(lines)), encoding="utf-8")


def said() -> str:
    """Return the report."""
    return command("check", "ownership")[1]


def listing_anew(lines: list[str]) -> list[str]:
    """Let the last line fit the others again."""
    paths = sorted(line.rpartition("  ")[2] for line in lines if "  " in line and not line.startswith("# paths"))
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    return [*(line for line in lines if not line.startswith("# paths")), f"# paths  {digest}"]


TAMPERING: dict[str, tuple[str, Callable[[list[str]], list[str]]]] = {
    "emptied": ("checks/ownership.py is not in it", lambda _: []),
    "emptied with care": ("checks/ownership.py is not in it", lambda _: listing_anew([])),
    "a line deleted": (
        "lines were added or deleted",
        lambda lines: [line for line in lines if not line.endswith(f"  {FILE}")],
    ),
    "a line added": ("lines were added or deleted", lambda lines: [*lines, f"{'0' * 64}  src/x.py"]),
    "code detached": (
        "chassis/mcp_chassis/app.py cannot be detached",
        lambda lines: [
            "# detached  chassis/mcp_chassis/app.py" if line.endswith("/mcp_chassis/app.py") else line for line in lines
        ],
    ),
    "detached, not in the answers": (
        f"{FILE} is detached here or in {ANSWERS}, not in both",
        lambda lines: [f"# detached  {FILE}" if line.endswith(f"  {FILE}") else line for line in lines],
    ),
}


@pytest.mark.parametrize("story", TAMPERING)
def test_M4_list_that_is_not_the_rendered_one_is_told(story: str) -> None:
    words, change = TAMPERING[story]

    manifest(change)

    assert ("manifest", MANIFEST) in failures()
    assert words in said()


@pytest.mark.parametrize("form", ["detached:\n- %s\n", "detached:\n-   %s\n", "detached:\n- '%s'\n"])
def test_M4_detached_in_the_answers_alone_is_told_and_in_both_is_good(form: str) -> None:
    with Path(ANSWERS).open("a", encoding="utf-8") as answers:
        answers.write(form % FILE)
    alone = failures()
    manifest(lambda lines: [f"# detached  {FILE}" if line.endswith(f"  {FILE}") else line for line in lines])

    assert set(alone) == {("manifest", MANIFEST)}
    assert failures() == {}


def test_M4_manifest_that_is_not_utf_8_is_told() -> None:
    Path(MANIFEST).write_bytes(Path(MANIFEST).read_bytes() + b"\xff\xfe\n")

    assert {name for name, _ in failures()} == {"manifest"}


def test_M4_answers_without_the_end_of_the_last_line_are_extended() -> None:
    Path(ANSWERS).write_bytes(Path(ANSWERS).read_bytes().rstrip(b"\n"))

    code, _ = command("ops", "detach", FILE)

    assert (code, yaml.safe_load(Path(ANSWERS).read_text(encoding="utf-8"))["detached"]) == (0, [FILE])
    assert failures() == {}


def test_M4_deleted_record_is_told_but_not_where_there_never_was_one(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(ANSWERS).unlink()
    deleted, words = failures(), said()
    monkeypatch.chdir(by_cookiecutter())

    assert set(deleted) == {("complete", ANSWERS)}
    assert "no update can come" in words
    assert NO_RECORD in Path(MANIFEST).read_text(encoding="utf-8")
    assert failures() == {}


@pytest.mark.parametrize("name", ["chassis/dist/x.py", "chassis/mcp_chassis/node_modules/x.py"])
def test_M4_folder_in_chassis_is_seen_whatever_its_name(name: str) -> None:
    Path(name).parent.mkdir(parents=True)
    Path(name).touch()

    assert set(failures()) == {("nothing_added", name)}


def test_M4_linked_folder_in_chassis_is_seen(tmp_path: Path) -> None:
    Path("chassis/mcp_chassis/more").symlink_to(tmp_path)

    assert set(failures()) == {("nothing_added", "chassis/mcp_chassis/more")}


def test_M4_litter_of_editors_and_merges_is_nobodys_file() -> None:
    for name in (".DS_Store", "app.py.orig", ".app.py.swp", "app.py~"):
        Path("chassis/mcp_chassis", name).touch()

    assert failures() == {}


def test_M4_detach_takes_a_path_as_a_shell_completes_it() -> None:
    code, words = command("ops", "detach", f"./{FILE}")

    assert (code, failures()) == (0, {}), words


def test_M4_detach_of_a_folder_says_that_files_are_named() -> None:
    code, words = command("ops", "detach", "deploy/nginx/")

    assert (code, "deploy/nginx is a folder: name its files one by one" in words) == (1, True)
