"""What this repository promises about itself: its own gate fires, and set-up is quick and clear (C3)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from scripts import lint
from tests.conftest import LONGEST
from tests.render.support import ROOT, succeed


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty git repository that the checks look at."""
    succeed("git", "init", "--quiet", cwd=tmp_path)
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["uv.lock", "deep/poetry.lock", "package-lock.json", "pnpm-lock.yaml"])
def test_C3_lock_stops_the_build(repository: Path, name: str) -> None:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("\n", encoding="utf-8")

    assert lint.unwanted() == [f"{name}: is a lock; locks are not committed"]


@pytest.mark.parametrize("host", ["pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org"])
def test_C3_name_of_a_registry_host_stops_the_build(repository: Path, host: str) -> None:
    (repository / "notes.md").write_text(f"First.\nSee https://{host}/simple.\n", encoding="utf-8")

    (line,) = lint.unwanted()

    assert line.startswith("notes.md:2: names the registry host")


def test_C3_what_git_ignores_may_hold_a_lock(repository: Path) -> None:
    (repository / ".gitignore").write_text("uv.lock\n", encoding="utf-8")
    (repository / "uv.lock").write_text("\n", encoding="utf-8")

    assert lint.unwanted() == []


def test_C3_shell_scripts_are_found_by_name_and_by_first_line(repository: Path) -> None:
    (repository / "run").write_text("#!/usr/bin/env bash\ntrue\n", encoding="utf-8")
    (repository / "tool.sh").write_text("true\n", encoding="utf-8")
    (repository / "tool.py").write_text("#!/usr/bin/env python3\n", encoding="utf-8")

    assert lint.shell_scripts() == ["run", "tool.sh"]


def setup(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the set-up script with more environment variables."""
    command = [str(ROOT / "scripts/setup.sh"), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def test_M1_second_set_up_is_quick_and_silent() -> None:
    setup("true")

    started = time.monotonic()
    done = setup("true")

    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 5, "nothing changed, so nothing should be done (usually 0.2 s)"


def test_M1_set_up_is_not_misled_by_an_activated_environment(tmp_path: Path) -> None:
    done = setup("python", "-c", "import sys; print(sys.prefix)", VIRTUAL_ENV=str(tmp_path), PYTHONHOME="")

    assert Path(done.stdout.strip()) == ROOT / ".venv"


def test_M1_old_python_is_refused_with_a_way_out(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        "#!/bin/sh\n"
        # The real interpreter runs the script that it is given, with an older version number.
        'sed "s/sys.version_info/(3, 9)/; s/platform.python_version()/str(3.9)/" |\n'
        f"  {ROOT}/.venv/bin/python -\n",
        encoding="utf-8",
    )
    old.chmod(0o755)

    done = setup("true", PYTHON=str(old))

    assert done.returncode == 1
    assert "is 3.9" in done.stderr
    assert "3.11 or newer is needed" in done.stderr
    assert "PYTHON=python3.13 make test" in done.stderr


def test_C3_tests_of_a_group_run_in_one_process_and_the_longest_begin(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    marked = "import pytest\npytestmark = pytest.mark.xdist_group('{}')\n"
    tests = "@pytest.mark.parametrize('number', range(5))\ndef test_it(number): pass\n"
    for name, head in {
        "test_alone.py": "import pytest\n",
        "test_one.py": marked.format("short"),
        "test_other.py": marked.format("short"),
        "test_third.py": marked.format(LONGEST[1]),
        "test_last.py": marked.format(LONGEST[0]),
    }.items():
        (tmp_path / name).write_text(head + tests, encoding="utf-8")

    said = succeed("pytest", "-n", "2", "--dist", "loadgroup", "--verbose", "-p", "no:cacheprovider", ".", cwd=tmp_path)

    ran = re.findall(r"^\[(gw\d)\].* PASSED (test_\w+)\.py", said, flags=re.MULTILINE)
    places = {name: {place for place, one in ran if one == name} for _, name in ran}
    assert len(ran) == 25
    assert {name: len(found) for name, found in places.items()} == dict.fromkeys(places, 1), said
    assert places["test_one"] == places["test_other"]
    assert {name for _, name in ran[:2]} <= {"test_last", "test_third"}


def test_C3_what_is_dealt_first_is_there() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    groups = {name for text in texts.values() for name in re.findall(r'xdist_group\("([\w-]+)"\)', text)}

    assert set(LONGEST) <= groups | set(texts)
