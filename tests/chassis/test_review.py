"""S1, E4: what a hostile review found in the environment, in registration and in the words of refusals."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter, ValidationError
from pydantic_settings import SettingsConfigDict
from typer.testing import CliRunner

from mcp_chassis import Caller, Server, ServerSettings
from mcp_chassis.cli import application
from mcp_chassis.environment import ConfigurationError, load
from mcp_chassis.errors import violations
from mcp_chassis.settings import Settings
from mcp_chassis.start import start
from tests.chassis.serving import settings
from tests.chassis.tools import SECRET
from tests.support.inside import Log


class Mine(ServerSettings):
    """Settings as a team writes them."""

    model_config = SettingsConfigDict(env_prefix="REVIEW_")

    kept: int = Field(1000, ge=1, description="Notes kept")


def strangers(log: Log) -> dict[str, str]:
    return {line["variable"]: line["nearest"] for line in log.lines("unknown_variable")}


@pytest.mark.parametrize("place", ["process", ".env"])
@pytest.mark.parametrize("variable", ["mcp_environment=production", "mcp_port=1", "Mcp_Auth=keys", "review_kept=5"])
def test_S1_variable_in_other_letter_case_is_not_honoured_and_not_passed_over(
    variable: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, value = variable.split("=")
    if place == "process":
        monkeypatch.setenv(name, value)
    else:
        (tmp_path / ".env").write_text(f"{variable}\n")

    with pytest.raises(ConfigurationError) as stopped:
        load(Settings, Mine)

    assert [str(problem) for problem in stopped.value.problems] == [f"{name}  must be written {name.upper()}"]


def test_A10_small_letters_do_not_hide_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_ENVIRONMENT", "production")
    monkeypatch.setenv("mcp_environment", "development")
    monkeypatch.setenv("mcp_auth", "mtls")

    with pytest.raises(ConfigurationError) as stopped:
        load(Settings)

    named = [problem.variable for problem in stopped.value.problems]
    assert sorted(named) == ["MCP_AUTH", "MCP_STATE_URL", "mcp_auth", "mcp_environment"]


def test_S2_mark_before_the_text_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"\xef\xbb\xbfredis://redis:6379/0")
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfMCP_PORT=1111\n")
    monkeypatch.setenv("MCP_STATE_URL_FILE", str(tmp_path / "url"))

    found, _ = load(Settings)

    assert (found.port, found.store_shown) == (1111, "redis://redis:6379/0")


def test_S1_typing_error_under_the_teams_own_prefix_is_a_warning(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVIEW_KETP", "5")

    start(Server("tests", settings=Mine), stream=log.stream)

    assert strangers(log) == {"REVIEW_KETP": "REVIEW_KEPT"}


def test_S1_typing_error_stands_beside_the_problem_that_it_may_have_caused(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MCP_PORT=x", "MCP_PUBLIC_ULR=https://x", "REVIEW_KETP=canary", "MCP_XYZZY=1"):
        monkeypatch.setenv(*variable.split("=", 1))

    with pytest.raises(ConfigurationError) as stopped:
        load(Settings, Mine)

    first, second, *hints = str(stopped.value).split("\n")
    assert (first, second.split()[0]) == ("1 problem stops this server:", "MCP_PORT=x")
    assert hints == [
        "  MCP_PUBLIC_ULR  is read by nothing; is MCP_PUBLIC_URL meant?",
        "  REVIEW_KETP  is read by nothing; is REVIEW_KEPT meant?",
    ]


BAD_FILES = [
    (b"MCP_LIST_TTL=\xff\xfe\n", ".env  must be a text file in UTF-8 that this process can read"),
    (b"MCP_LIST_TTL=7\nthis is =not= a line\n", ".env, line 2  must be NAME=value, or a comment after #"),
    (b"\n# fine\n\n'MCP_PORT\n", ".env, line 4  must be NAME=value, or a comment after #"),
]


@pytest.mark.parametrize("command", ["serve", "stdio"])
@pytest.mark.parametrize(("content", "told"), BAD_FILES)
def test_S1_broken_dot_env_stops_the_server_with_the_line(
    content: bytes, told: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_bytes(content)
    monkeypatch.delattr("mcp_chassis.serve.open_listener")  # a server that starts after all fails instead of serving

    done = CliRunner().invoke(application(Server("tests")), [command])

    assert done.exit_code == 78
    assert done.stderr == f"1 problem stops this server:\n  {told}\n"
    assert done.stdout == ""


class Holder(BaseModel):
    """A model that smuggles a caller into a schema."""

    who: Caller


async def optional(who: Caller | None) -> str:
    """Take a caller, or none."""
    return str(who)


async def annotated(who: Annotated[Caller, Field(description="who")]) -> str:
    """Take a described caller."""
    return str(who)


async def listed(who: list[Caller]) -> str:
    """Take callers."""
    return str(who)


async def held(holder: Holder) -> str:
    """Take a model with a caller."""
    return str(holder)


async def held_deeper(holders: dict[str, list[Holder]]) -> str:
    """Take models with a caller."""
    return str(holders)


@pytest.mark.parametrize("function", [optional, annotated, listed, held, held_deeper])
def test_A8_caller_cannot_become_an_argument(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}: .*Caller"):
        Server("tests").add_tool(function)


@pytest.mark.parametrize("name", ["add note", " add", "add\n", "zürich", "a/b", "n" * 129])
def test_S1_name_that_a_client_cannot_use_is_refused_at_registration(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a tool's name"):
        Server("tests").tool(name=name)(_nothing)


@pytest.mark.parametrize("timeout", [float("nan"), 0, -1])
def test_S1_timeout_that_is_no_time_is_refused_at_registration(timeout: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Server("tests").tool(timeout=timeout)(_nothing)


async def _nothing() -> None:
    """Do nothing."""


@pytest.fixture
def _modules() -> Iterator[None]:
    """Forget what a test imported."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("reviewed"):
            del sys.modules[name]


PACKAGES: list[tuple[dict[str, str], list[str]]] = [
    (
        {"sub/notes.py": "x = 1\n"},
        ["reviewed/tools/sub  holds modules and no __init__.py, so nothing would serve them"],
    ),
    ({"notes.py": "x = 1\ndef broken(:\n"}, ["reviewed/tools/notes.py:2  SyntaxError: invalid syntax"]),
    (
        {"notes.py": "\n\nundefined\n"},
        ["reviewed/tools/notes.py:3  NameError: name 'undefined' is not defined"],
    ),
    (
        {"sub/__init__.py": "\nimport nowhere\n"},
        ["reviewed/tools/sub/__init__.py:2  ModuleNotFoundError: No module named 'nowhere'"],
    ),
    (
        {"a.py": "1 / 0\n", "b.py": "from reviewed.tools import fine, missing\n", "fine.py": "x = 1\n"},
        ["reviewed/tools/a.py:1  ZeroDivisionError: division by zero", "reviewed/tools/b.py:1  ImportError: "],
    ),
]


@pytest.mark.usefixtures("_modules")
@pytest.mark.parametrize(("files", "told"), PACKAGES)
def test_S1_tool_module_that_cannot_be_served_is_named_with_its_line(
    files: dict[str, str], told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in ({"../__init__.py": "", "__init__.py": ""} | files).items():
        path = tmp_path / "reviewed" / "tools" / name
        (tmp_path / "reviewed" / "tools").mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    server = Server("tests")
    monkeypatch.setattr(server, "_tools_package", importlib.import_module("reviewed.tools"))

    with pytest.raises(ConfigurationError) as stopped:
        server.prepare(settings())

    found = [str(problem) for problem in stopped.value.problems]
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True)), found


class Cat(BaseModel):
    """One kind."""

    kind: Literal["cat"]


class Dog(BaseModel):
    """Another kind."""

    kind: Literal["dog"]


PET = Annotated[Cat | Dog, Field(discriminator="kind")]
WORDS: list[tuple[Any, Any, str]] = [
    (date, SECRET, "must be a date like 2026-01-31"),
    (date, "2026-01-31T12:30:00", "must"),
    (datetime, SECRET, "must be a date and time like 2026-01-31T12:00:00Z"),
    (UUID, SECRET, "must be a UUID"),
    (AnyUrl, SECRET, "must be a URL like https://example.com"),
    (PET, {"kind": SECRET}, "must name one of the kinds in the schema"),
    (PET, {"of": SECRET}, "must name its kind"),
]


@pytest.mark.parametrize(("kind", "value", "told"), WORDS)
def test_E4_words_name_the_rule_and_never_the_value(kind: Any, value: Any, told: str) -> None:
    reader = TypeAdapter(dict[Literal["field"], kind])

    with pytest.raises(ValidationError) as found:
        reader.validate_python({"field": value})

    text = violations(found.value)
    assert text.startswith(f"field {told}")
    assert "is not valid" not in text
    assert SECRET not in text
    assert "12:30" not in text
