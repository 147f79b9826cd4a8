"""How settings classes read the environment, and how they say what is wrong with it (S1, S2)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mcp_chassis.errors import default_words, is_secret, type_words

BAD_CONFIGURATION = 78
"""Exit code of a server that must not start: EX_CONFIG of sysexits.h."""

ENVIRONMENT_FILE = Path(".env")
"""Read in development only; production takes its variables from the process (S2)."""


_PASSWORD = re.compile(r"(?<=://).*@")
"""What stands before the host in a URL: a variable that should hold none may have been given one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that stops the server, most often a variable; `value` is None where it must not be shown."""

    variable: str
    value: str | None
    rule: str

    def __str__(self) -> str:
        value = "" if self.value is None else "=" + _PASSWORD.sub("***@", self.value)
        return f"{self.variable}{value}  {self.rule}"


class ConfigurationError(Exception):
    """The environment does not make a server; the text lists every problem.

    Args:
        problems: At least one.
        strangers: Variables that nothing reads, each with the nearest name that something does: a likely cause.
    """

    exit_code: ClassVar[int] = BAD_CONFIGURATION

    def __init__(self, problems: Sequence[Problem], strangers: Sequence[tuple[str, str | None]] = ()) -> None:
        count = "1 problem stops" if len(problems) == 1 else f"{len(problems)} problems stop"
        lines = [str(problem) for problem in problems]
        named = {problem.variable for problem in problems}
        likely = [(name, nearest) for name, nearest in strangers if nearest and name not in named]
        lines += [f"{name}  is read by nothing; is {nearest} meant?" for name, nearest in likely]
        super().__init__("\n  ".join([f"{count} this server:", *lines]))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Variable:
    """What a person needs to know about one environment variable."""

    name: str
    type: str
    default: str | None
    meaning: str
    secret: bool
    required: bool


class _Given(PydanticBaseSettingsSource):
    """The only reader of the environment: exact names, so that no check can look past another spelling (A10)."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text given for one field, or for a secret the text of the file given, or None."""
        given = given_variables()
        variable = _variable(self.config, field_name)
        path = given.get(f"{variable}_FILE") if is_secret(field) else None
        return given.get(variable, _text(Path(path)) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the texts of all fields that were given."""
        fields = self.settings_cls.model_fields
        texts = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: text for name, text in texts.items() if text is not None}


class EnvironmentSettings(BaseSettings):
    """A frozen settings class whose fields are environment variables under its prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Prefer arguments, then what was given."""
        return init_settings, _Given(settings_cls)

    @classmethod
    def variables(cls) -> Iterator[Variable]:
        """Yield every variable this class reads, in the order of its fields."""
        for name, field in cls.model_fields.items():
            yield Variable(
                name=_variable(cls.model_config, name),
                type=type_words(field),
                default=default_words(field),
                meaning=field.description or "",
                secret=is_secret(field),
                required=field.is_required(),
            )

    @classmethod
    def conflicts(cls, given: dict[str, str]) -> list[Problem]:
        """Return problems that no single variable shows; `given` maps variable names to texts."""
        del given
        return []


_Settings = TypeVar("_Settings", bound=EnvironmentSettings)


def given_variables() -> dict[str, str]:
    """Return the variables a server starts from: the process's, and in development those of `.env`."""
    process = dict(os.environ)
    if not _development(process) or not ENVIRONMENT_FILE.is_file():
        return process
    text = _text(ENVIRONMENT_FILE) or ""
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None} | process


def load(main: type[_Settings], *others: type[ServerSettings]) -> tuple[_Settings, list[ServerSettings]]:
    """Build one object of each class from the environment.

    Raises:
        ConfigurationError: If anything is missing or wrong, with all problems of all classes at once.
    """
    given = given_variables()
    problems = _environment_file_problems(given) + _misspelled(given, main, *others)
    found = _read(main, given, problems)
    rest = [loaded for other in others if (loaded := _read(other, given, problems)) is not None]
    if problems or found is None:
        raise ConfigurationError(problems, unknown_variables(main, *others))
    return found, rest


def _read(settings_class: type[_Settings], given: dict[str, str], problems: list[Problem]) -> _Settings | None:
    """Return the settings, or None and add to `problems`."""
    unreadable = _unreadable_files(settings_class, given)
    texts = {_variable(settings_class.model_config, name): text for name, text in _Given(settings_class)().items()}
    problems += unreadable + settings_class.conflicts(given | texts)
    try:
        return settings_class()
    except ValidationError as error:
        found = [_problem(settings_class, item, given) for item in _first_of_each_field(error)]
        named = {problem.variable for problem in unreadable}
        problems += [problem for problem in found if f"{problem.variable}_FILE" not in named]
        return None


def _environment_file_problems(given: Mapping[str, str]) -> list[Problem]:
    """Return what is wrong with `.env` as a file."""
    if not _development(os.environ) or not ENVIRONMENT_FILE.is_file():
        return []
    text = _text(ENVIRONMENT_FILE, str.rstrip)
    if text is None:
        return [Problem(str(ENVIRONMENT_FILE), None, "must be a text file in UTF-8 that this process can read")]
    found = []
    for original in (binding.original for binding in parse_stream(StringIO(text)) if binding.error):
        # To the parser, blank lines above are part of it.
        line = original.line + len(original.string) - len(original.string.lstrip("\n"))
        found.append(Problem(f"{ENVIRONMENT_FILE}, line {line}", None, "must be NAME=value, or a comment after #"))
    if not _development(given):
        # Nothing reads the file in production, so the rest of it would be lost in silence.
        rule = f"must be set in the process, not in {ENVIRONMENT_FILE}: production never reads that file"
        found.append(Problem("MCP_ENVIRONMENT", given["MCP_ENVIRONMENT"], rule))
    return found


def _misspelled(given: Mapping[str, str], *classes: type[EnvironmentSettings]) -> list[Problem]:
    """Refuse names in other letter case: half of what was asked for would be ignored in silence (A10)."""
    known = {variable.name for settings_class in classes for variable in settings_class.variables()}
    wrong = [name for name in given if name not in known and name.upper() in known]
    return [Problem(name, None, f"must be written {name.upper()}") for name in sorted(wrong)]


def _development(given: Mapping[str, str]) -> bool:
    return given.get("MCP_ENVIRONMENT", "development") == "development"


def unknown_variables(*classes: type[EnvironmentSettings]) -> list[tuple[str, str | None]]:
    """Return variables under the prefixes of `classes` that none of them reads, each with the nearest name one does."""
    variables = [variable for settings_class in classes for variable in settings_class.variables()]
    known = {variable.name for variable in variables} | {f"{found.name}_FILE" for found in variables if found.secret}
    prefixes = tuple(filter(None, (found.model_config.get("env_prefix", "").upper() for found in classes)))
    strangers = sorted(name for name in given_variables() if name.upper().startswith(prefixes) and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name.upper(), known, cutoff=0.75)), None)) for name in strangers]


def _unreadable_files(settings_class: type[EnvironmentSettings], given: dict[str, str]) -> list[Problem]:
    problems = []
    for variable in settings_class.variables():
        name = f"{variable.name}_FILE"
        if not variable.secret or name not in given:
            continue
        if variable.name in given:
            problems.append(Problem(name, given[name], f"must not stand beside {variable.name}; remove one of them"))
        elif _text(Path(given[name])) is None:
            problems.append(Problem(name, given[name], "must be a file that this process can read"))
    return problems


def _text(path: Path, trim: Callable[[str], str] = str.strip) -> str | None:
    try:
        # Some editors put a mark before the text; it would become part of the first name or of a secret.
        return trim(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def _first_of_each_field(error: ValidationError) -> list[Any]:
    found: dict[object, Any] = {}
    for item in error.errors(include_url=False):
        found.setdefault(item["loc"][0] if item["loc"] else "", item)
    return list(found.values())


def _problem(settings_class: type[EnvironmentSettings], item: Any, given: dict[str, str]) -> Problem:
    name = str(item["loc"][0]) if item["loc"] else ""
    field = settings_class.model_fields.get(name)
    if field is None:
        # A rule over several fields, or a field that reads a variable of another name.
        rule = str(item.get("ctx", {}).get("error", "is not valid"))
        return Problem(name or f"{settings_class.model_config.get('env_prefix', '')}*", None, rule)
    variable = _variable(settings_class.model_config, name)
    if item["type"] == "missing":
        return Problem(variable, None, f"is required: {field.description or type_words(field)}")
    rule = str(item["ctx"]["error"]) if item["type"] == "value_error" else f"must be {type_words(field)}"
    default = default_words(field)
    way_out = f"; remove it to use {default}" if default else ""
    if is_secret(field):
        return Problem(variable, None, rule.replace(str(item["input"]) or "\0", "***"))
    return Problem(variable, given.get(variable), rule + way_out)


def _variable(config: SettingsConfigDict, field_name: str) -> str:
    return f"{config.get('env_prefix', '')}{field_name}".upper()


class ServerSettings(EnvironmentSettings):
    """The base of your own settings; give it your prefix.

        class Settings(ServerSettings):
            model_config = SettingsConfigDict(env_prefix="NOTES_")
            kept: int = Field(1000, ge=1, description="Notes kept for one tenant")

    Read it anywhere with `Settings.current()`.
    """

    _loaded: ClassVar[dict[type[ServerSettings], ServerSettings]] = {}

    @classmethod
    def current(cls) -> Self:
        """Return this process's settings, read from the environment once.

        Raises:
            ConfigurationError: If a variable is missing or wrong; a server that started has none.
        """
        if cls not in ServerSettings._loaded:
            ServerSettings.use(load(cls)[0])
        return cast(Self, ServerSettings._loaded[cls])

    @staticmethod
    def use(settings: ServerSettings) -> None:
        """Make `settings` what `current()` of its class returns; tests use it too."""
        ServerSettings._loaded[type(settings)] = settings
