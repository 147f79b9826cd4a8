"""A profile's time is divided among the owners of the code (issue 9)."""

from __future__ import annotations

import pstats
import sys
from pathlib import Path

import pytest

from bench import profiled
from bench.client import Client
from bench.figures import Invalid
from bench.profiled import PYTHON, TOOL, Function, Profile, Times, owner, seconds_by_owner
from bench.running import CALLER, ROOT, generated
from tests.bench.test_bench_servers import SERVER
from tests.live.curl import ERAS
from tests.live.fleet import Keys
from tests.live.project import Project

PROJECT = Path("/somewhere/notes")
SOURCE = PROJECT / "src" / "notes"
INSTALLED = PROJECT / ".venv/lib/python3.11/site-packages"
SDK, CHASSIS, PYDANTIC = "the SDK (mcp, mcp_types)", "the chassis (mcp_chassis)", "pydantic"


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


def times(own: float) -> Times:
    """Return times of which only the own ones matter."""
    return 1, 1, own, own


def entry(
    own: float, callers: dict[Function, float] | None = None
) -> tuple[int, int, float, float, dict[Function, Times]]:
    """Return what a profile has of a function."""
    return *times(own), {caller: times(part) for caller, part in (callers or {}).items()}


def at(file: str) -> Function:
    return file, 1, "work"


@pytest.mark.parametrize(
    ("file", "name", "whose"),
    [
        (f"{INSTALLED}/mcp/server/lowlevel/server.py", "run", SDK),
        (f"{INSTALLED}/mcp_types/methods.py", "parse", SDK),
        (f"{INSTALLED}/anyio/_backends/_asyncio.py", "wait", "anyio"),
        (f"{INSTALLED}/sse_starlette/sse.py", "listen", "starlette and sse-starlette"),
        (f"{INSTALLED}/prometheus_client/metrics.py", "inc", "structlog, orjson and prometheus"),
        (f"{INSTALLED}/mcp_chassis/app.py", "__call__", CHASSIS),
        (f"{PROJECT}/chassis/mcp_chassis/app.py", "__call__", CHASSIS),
        (f"{SOURCE}/tools/echo.py", "echo", TOOL),
        (f"{INSTALLED}/typing_extensions.py", "get", None),
        (f"{INSTALLED}/mcp_other/server.py", "run", None),
        ("/usr/lib/python3.11/json/encoder.py", "encode", None),
        ("<string>", "__init__", None),
        ("~", "<built-in method orjson.dumps>", "structlog, orjson and prometheus"),
        ("~", "<method 'to_json' of 'pydantic_core._pydantic_core.SchemaSerializer' objects>", PYDANTIC),
        ("~", "<built-in method builtins.len>", None),
        ("~", "<method 'get' of 'dict' objects>", None),
    ],
)
def test_owner_is_the_package_of_the_file_or_that_of_compiled_code(file: str, name: str, whose: str | None) -> None:
    assert owner((file, 1, name), SOURCE) == whose


def test_what_is_nobodys_counts_for_its_callers_by_their_parts_of_its_own_time() -> None:
    sdk, chassis = at(f"{INSTALLED}/mcp/server.py"), at(f"{PROJECT}/chassis/mcp_chassis/app.py")
    length: Function = ("~", 0, "<built-in method builtins.len>")
    profile: Profile = {
        sdk: entry(5.0),
        chassis: entry(2.0, {sdk: 2.0}),
        # A quarter of it was called by nobody: the event loop did.
        length: entry(4.0, {sdk: 1.0, chassis: 2.0}),
    }

    found = seconds_by_owner(profile, SOURCE)

    assert {name: seconds for name, seconds in found.items() if seconds} == {SDK: 6.0, CHASSIS: 4.0, PYTHON: 1.0}


def test_callers_of_the_standard_library_are_asked_as_well_and_a_ring_of_it_ends() -> None:
    sdk = at(f"{INSTALLED}/mcp/server.py")
    dumps, encode = at("/usr/lib/python3.11/json/__init__.py"), at("/usr/lib/python3.11/json/encoder.py")
    make: Function = ("~", 0, "<built-in method _json.make>")
    one, other = at("/usr/lib/python3.11/one.py"), at("/usr/lib/python3.11/other.py")
    profile: Profile = {
        sdk: entry(1.0),
        dumps: entry(1.0, {sdk: 1.0}),
        encode: entry(2.0, {dumps: 2.0}),
        make: entry(4.0, {encode: 4.0}),
        one: entry(3.0, {other: 3.0}),
        other: entry(5.0, {one: 5.0}),
    }

    found = seconds_by_owner(profile, SOURCE)

    assert found[SDK] == 8.0
    assert found[PYTHON] == 8.0
    assert sum(found.values()) == sum(each[2] for each in profile.values())


def test_shares_add_up_to_100_the_largest_first() -> None:
    profile: Profile = {at(f"{INSTALLED}/anyio/abc.py"): entry(1.0), at(f"{INSTALLED}/mcp/server.py"): entry(3.0)}

    *shares, calls = profiled.figures("an era", profile, SOURCE, 70)

    assert [(share.what, share.value) for share in shares[:2]] == [(f"an era: {SDK}", 75), ("an era: anyio", 25)]
    assert len(shares) == len(profiled.OWNERS)
    assert sum(share.value for share in shares) == 100
    assert (calls.what, calls.value) == ("an era: profiled calls", 70)
    with pytest.raises(Invalid):
        list(profiled.figures("an era", {}, SOURCE, 70))


async def test_profile_of_a_real_server_has_its_owners(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(SERVER, encoding="utf-8")
    keys, file = Keys(tmp_path), tmp_path / "profile"
    command = [sys.executable, "-m", "bench.profiling", "tiny", str(file)]
    given = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}

    with generated(Project(tmp_path, "tiny"), keys, tmp_path, command=command, given=given) as server:
        for era in ERAS:
            client = Client(server.url, era, keys.headers(CALLER))
            await client.open()
            await client.batch(5)
        server.stop()

    found = seconds_by_owner(vars(pstats.Stats(str(file)))["stats"], tmp_path)
    assert all(seconds > 0 for seconds in found.values())
