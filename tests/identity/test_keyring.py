"""The keys file: replaced under a running server, mounted read-only, broken, edited by many (A4)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_chassis.app import build_app
from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring, KeyRecord, UnreadableKeyring
from mcp_chassis.environment import ConfigurationError
from tests.identity.serving import Served, bearer, notes, serving, settings
from tests.identity.wire import ERAS, Answer, Era
from tests.support.inside import Log
from tests.support.privileges import without_override


def contents(*records: KeyRecord) -> str:
    return json.dumps({"version": 1, "keys": [record.model_dump(mode="json") for record in records]})


@asynccontextmanager
async def server_of(file: Path) -> AsyncIterator[Served]:
    async with serving(settings(auth=("keys",), api_keys_file=file)) as served:
        yield served


async def ask(served: Served, key: str) -> Answer:
    return await served.peer("stateless", [bearer(key)]).call("whoami")


@pytest.mark.anyio
async def test_A4_file_replaced_atomically_counts_at_the_next_request(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    (old, old_record), (new, new_record) = keys.create("ann"), keys.create("bob")
    file.write_text(contents(old_record), encoding="utf-8")

    async with server_of(file) as served:
        assert [(await ask(served, key)).status for key in (old, new)] == [200, 401]

        (tmp_path / "next").write_text(contents(new_record), encoding="utf-8")
        (tmp_path / "next").replace(file)

        assert [(await ask(served, key)).status for key in (old, new)] == [401, 200]


@pytest.mark.anyio
async def test_A4_mounted_kubernetes_secret_is_swapped_under_a_running_server(tmp_path: Path) -> None:
    # Given a volume as the kubelet writes it: file -> ..data/file, ..data -> a folder with a time
    (old, old_record), (new, new_record) = keys.create("ann"), keys.create("bob")
    for name, record in (("..2026_11_21_1", old_record), ("..2026_11_21_2", new_record)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_text(contents(record), encoding="utf-8")
        os.utime(tmp_path / name / "keys.json", ns=(0, 0))
    (tmp_path / "..data").symlink_to("..2026_11_21_1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")

    async with server_of(tmp_path / "keys.json") as served:
        assert [(await ask(served, key)).status for key in (old, new)] == [200, 401]

        # When it swaps the folder
        (tmp_path / "..data_tmp").symlink_to("..2026_11_21_2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

        # Then the new contents count, of the same size and age though they are
        assert [(await ask(served, key)).status for key in (old, new)] == [401, 200]


BROKEN: dict[str, str | bytes] = {
    "empty": "",
    "cut": '{"version": 1, "keys": [',
    "not UTF-8": b"\xff\xfe",
    "a list": "[]",
    "newer version": '{"version": 2, "keys": []}',
    "unknown field": '{"version": 1, "keys": [], "secrets": []}',
    "unhashed": '{"version": 1, "keys": [{"id": "abcdefghijkl", "secret": "hunter2"}]}',
    "hash too short": contents(keys.create("ann")[1]).replace('"hash": "', '"hash": "0'),
    "time without zone": '{"keys": [{"id": "abcdefghijkl", "hash": "%s", "caller": "ann", "created": "2026-01-01"}]}'
    % ("0" * 64),
}


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("how", [*BROKEN, "missing", "a folder"])
async def test_A4_file_that_breaks_at_run_time_is_503_until_it_is_mended(
    how: str, era: Era, tmp_path: Path, log: Log
) -> None:
    file = tmp_path / "keys.json"
    key, record = keys.create("ann")
    file.write_text(contents(record), encoding="utf-8")
    async with server_of(file) as served:
        peer = await served.opened(era, [bearer(key)])
        handled = len(served.handled)

        # When the file breaks
        file.unlink()
        if how == "a folder":
            file.mkdir()
        elif how != "missing":
            broken = BROKEN[how]
            file.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
        refused = await peer.call("whoami")

        # Then nobody is told to throw a good key away, and the log says what to look at
        assert (refused.status, refused.reason()) == (503, "keys_unavailable")
        assert (refused.header("retry-after"), refused.header("www-authenticate")) == ("5", None)
        assert len(served.handled) == handled
        assert log.reasons() == {"keys_unavailable"}
        assert not log.lines("crashed")
        assert [str(file) in line["reason"] for line in log.lines("keys_unreadable")] == [True]

        # And it serves again once it is mended
        (tmp_path / "next").write_text(contents(record), encoding="utf-8")
        file.rmdir() if how == "a folder" else None
        (tmp_path / "next").replace(file)
        assert (await peer.call("whoami")).status == 200


@pytest.mark.parametrize("how", [*BROKEN, "missing"])
def test_A4_file_that_is_broken_at_start_stops_the_start_and_is_not_quoted(how: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    broken = BROKEN.get(how)
    if broken is not None:
        file.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    given = settings(auth=("keys",), api_keys_file=file)
    server = notes()
    server.prepare(given)

    with pytest.raises(ConfigurationError) as stopped:
        build_app(server, given)

    assert f"MCP_API_KEYS_FILE={file}  must be a keys file" in str(stopped.value)
    assert "hunter2" not in str(stopped.value)


EDITOR = """
import sys
from pathlib import Path
from mcp_chassis.auth import keys
from mcp_chassis.auth.keys import FileKeyring
for number in range(10):
    with FileKeyring(Path(sys.argv[1])).editing() as kept:
        record = keys.create(f"{sys.argv[2]}-{number}")[1]
        kept[record.id] = record
"""


def test_A4_many_editors_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    editors = [subprocess.Popen([sys.executable, "-c", EDITOR, str(file), f"editor-{n}"]) for n in range(4)]
    for editor in editors:
        assert editor.wait(60) == 0

    found = {record.caller for record in FileKeyring(file).records().values()}
    assert found == {f"editor-{n}-{number}" for n in range(4) for number in range(10)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def test_A4_reader_sees_the_file_before_or_after_an_edit(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    reader = FileKeyring(file)
    with FileKeyring(file).editing():
        pass
    editor = subprocess.Popen([sys.executable, "-c", EDITOR, str(file), "ann"])

    seen = []
    while editor.poll() is None:
        seen.append(len(reader.records()))

    assert editor.returncode == 0
    assert seen == sorted(seen)
    assert len(reader.records()) == 10


def test_A4_file_is_the_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        with FileKeyring(file).editing() as kept:
            record = keys.create("ann")[1]
            kept[record.id] = record
    finally:
        os.umask(before)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_A4_edit_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(contents(keys.create("ann")[1]), encoding="utf-8")
    before = file.read_bytes()

    def fail() -> None:
        with FileKeyring(file).editing() as kept:
            kept.clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.json.lock", "keys.json"]


def test_A4_broken_file_is_not_overwritten_by_an_edit(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{", encoding="utf-8")

    with pytest.raises(UnreadableKeyring), FileKeyring(file).editing():
        pass

    assert file.read_text(encoding="utf-8") == "{"


def test_A4_read_only_folder_can_be_read_but_not_edited(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "keys.json").write_text(contents(keys.create("ann")[1]), encoding="utf-8")
    folder.chmod(0o500)
    script = (
        "import sys; from pathlib import Path; from mcp_chassis.auth.keys import FileKeyring\n"
        "keyring = FileKeyring(Path(sys.argv[1])); print(len(keyring.records()))\n"
        "try:\n    keyring.editing().__enter__()\nexcept OSError as error:\n    print(error.strerror)\n"
    )

    command = without_override([sys.executable, "-c", script, str(folder / "keys.json")])
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["1", "Permission denied"]
