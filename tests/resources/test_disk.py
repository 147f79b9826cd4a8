"""Copies on disk are believed for their digest alone, and a folder that takes none costs no start (C1)."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_chassis.pins import digest
from mcp_chassis.resources import Copies
from tests.resources.origin import DEADLINE, Origin
from tests.resources.process import BAD, FILE, GOOD, URL, pin, resources, running, stopped, until
from tests.support.inside import Log
from tests.support.privileges import without_override

pytestmark = pytest.mark.anyio


def tampered(path: Path) -> None:
    path.write_bytes(BAD)


def shortened(path: Path) -> None:
    path.write_bytes(GOOD[:-1])


def lengthened(path: Path) -> None:
    path.write_bytes(GOOD + b"\n")


def piped(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


DAMAGES: list[Callable[[Path], None]] = [tampered, shortened, lengthened, piped, endless]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_C1_copy_that_was_changed_on_disk_is_fetched_anew(
    damage: Callable[[Path], None], public: Origin, tmp_path: Path
) -> None:
    damage(tmp_path / digest(GOOD))
    public.put(FILE, GOOD)
    found = resources(tmp_path)

    await found.prepare()

    assert found.verified(URL) == GOOD
    assert (tmp_path / digest(GOOD)).read_bytes() == GOOD


@pytest.mark.parametrize("damage", [*DAMAGES, a_folder])
async def test_C1_copy_that_was_changed_on_disk_is_refused_when_nothing_better_can_be_had(
    damage: Callable[[Path], None], public: Origin, tmp_path: Path
) -> None:
    damage(tmp_path / digest(GOOD))
    public.put(FILE, BAD)

    assert "has no verified copy" in await stopped(resources(tmp_path))


async def test_C1_lost_copy_is_kept_again_while_running(public: Origin, tmp_path: Path) -> None:
    public.put(FILE, GOOD)
    found = resources(tmp_path)
    async with running(found):
        (tmp_path / digest(GOOD)).write_bytes(BAD)
        await until(lambda: (tmp_path / digest(GOOD)).read_bytes() == GOOD)


@pytest.mark.parametrize("obstacle", [a_folder, tampered])
async def test_C1_copy_that_cannot_be_kept_costs_a_line_not_the_server(
    obstacle: Callable[[Path], None], public: Origin, tmp_path: Path, log: Log
) -> None:
    public.put(FILE, GOOD)
    folder = tmp_path / "copies"
    if obstacle is a_folder:
        folder.mkdir()
        a_folder(folder / digest(GOOD))
    else:
        obstacle(folder)  # a file where the folder should be
    found = resources(folder)

    await found.prepare()

    assert found.verified(URL) == GOOD
    (line,) = log.lines("resource_not_kept")
    assert line["reason"] in ("Is a directory", "File exists", "Not a directory")


SCRIPT = """
import anyio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.resources.process import GOOD, URL, resources
found = resources(Path(sys.argv[1]))
anyio.run(found.prepare)
print(found.verified(URL) == GOOD)
"""


def test_C1_copies_in_a_folder_that_nobody_may_write_are_used(tmp_path: Path) -> None:
    Copies(tmp_path / "copies").keep(pin(), GOOD)
    (tmp_path / "copies").chmod(0o555)
    root = str(Path(__file__).parents[2])

    command = without_override([sys.executable, "-c", SCRIPT, str(tmp_path / "copies"), root])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def _keep_often(folder: str) -> None:
    for _ in range(50):
        Copies(Path(folder)).keep(pin(), GOOD)


def test_C1_processes_that_share_a_folder_never_see_half_a_copy(tmp_path: Path) -> None:
    Copies(tmp_path).keep(pin(), GOOD)
    writers = [multiprocessing.get_context("spawn").Process(target=_keep_often, args=(str(tmp_path),)) for _ in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(Copies(tmp_path).find(pin()))
    for writer in writers:
        writer.join(DEADLINE)

    assert seen == {GOOD}
    assert [path.name for path in tmp_path.iterdir()] == [digest(GOOD)]
