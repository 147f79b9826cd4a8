"""How settings classes read the environment, and how they say what is wrong with it (S1, S2)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mcp_chassis.words import default_words, is_secret, type_words

BAD_CONFIGURATION = 78
"""Exit code of a server that must not start: EX_CONFIG of sysexits.h."""

ENVIRONMENT_FILE = Path(".env")
"""Read in development only; production takes its variables from the process (S2)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One variable that stops the server; `value` is None where it must not be shown."""

    variable: str
    value: str | None
    rule: str

    def __str__(self) -> str:
        shown = self.variable if self.value is None else f"{self.variable}={self.value}"
        return f"{shown}  {self.rule}"


class ConfigurationError(Exception):
    """The environment does not make a server; the text lists every problem.

    Args:
        problems: At least one.
    """

    exit_code: ClassVar[int] = BAD_CONFIGURATION

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = "1 setting stops" if len(problems) == 1 else f"{len(problems)} settings stop"
        super().__init__(f"{count} this server:\n" + "\n".join(f"  {problem}" for problem in problems))
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


class _SecretFiles(PydanticBaseSettingsSource):
    """The contents of `…_FILE` for every secret: orchestrators mount secrets as files."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text of the file that one secret names, or None."""
        path = os.environ.get(f"{_variable(self.config, field_name)}_FILE") if is_secret(field) else None
        return (Path(path).read_text(encoding="utf-8").strip() if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return every secret that was given as a readable file."""
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
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Prefer arguments, then the process, then `.env`, then mounted secrets."""
        del file_secret_settings
        return init_settings, env_settings, dotenv_settings, _SecretFiles(settings_cls)

    @classmethod
    def read(cls, env_file: Path | None) -> Self:
        """Return the settings of this process, with those of `env_file` behind them.

        Raises:
            pydantic.ValidationError: If anything is missing or wrong.
        """
        return cls(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings adds it to every class

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
    # In capitals, because the settings are read in any case.
    process = {name.upper(): text for name, text in os.environ.items()}
    if not _development(process) or not ENVIRONMENT_FILE.is_file():
        return process
    return {name.upper(): text for name, text in dotenv_values(ENVIRONMENT_FILE).items() if text is not None} | process


def load(main: type[_Settings], *others: type[EnvironmentSettings]) -> tuple[_Settings, list[EnvironmentSettings]]:
    """Build one object of each class from the environment.

    Raises:
        ConfigurationError: If anything is missing or wrong, with all problems of all classes at once.
    """
    given = given_variables()
    problems = _production_in_file(given)
    found = _read(main, given, problems)
    rest = [loaded for other in others if (loaded := _read(other, given, problems)) is not None]
    if problems or found is None:
        raise ConfigurationError(problems)
    return found, rest


def _read(settings_class: type[_Settings], given: dict[str, str], problems: list[Problem]) -> _Settings | None:
    """Return the settings, or None and add to `problems`."""
    problems += (unreadable := _unreadable_files(settings_class, given))
    if unreadable:
        problems += settings_class.conflicts(given)
        return None
    problems += settings_class.conflicts(given | _texts_of_files(settings_class, given))
    try:
        return settings_class.read(ENVIRONMENT_FILE if _development(given) else None)
    except ValidationError as error:
        problems += [_problem(settings_class, item, given) for item in _first_of_each_field(error)]
        return None


def _development(given: Mapping[str, str]) -> bool:
    return given.get("MCP_ENVIRONMENT", "development") == "development"


def _production_in_file(given: Mapping[str, str]) -> list[Problem]:
    """Return a problem if `.env` says production: it would not be read, and development would run in its place."""
    said = given.get("MCP_ENVIRONMENT")
    if said is None or said == "development" or "MCP_ENVIRONMENT" in {name.upper() for name in os.environ}:
        return []
    rule = f"must not stand in {ENVIRONMENT_FILE}, which production never reads; set it in the process"
    return [Problem("MCP_ENVIRONMENT", said, rule)]


def _texts_of_files(settings_class: type[EnvironmentSettings], given: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that were given as readable files, under the names of their variables."""
    names = [variable.name for variable in settings_class.variables() if variable.secret]
    files = {name: given[f"{name}_FILE"] for name in names if f"{name}_FILE" in given}
    return {name: Path(path).read_text(encoding="utf-8").strip() for name, path in files.items()}


def unknown_variables(prefix: str, classes: Sequence[type[EnvironmentSettings]]) -> list[tuple[str, str | None]]:
    """Return variables under `prefix` that nothing reads, each with the nearest name that something does."""
    known = [variable.name for settings_class in classes for variable in settings_class.variables()]
    known += [f"{v.name}_FILE" for settings_class in classes for v in settings_class.variables() if v.secret]
    strangers = sorted(name for name in given_variables() if name.startswith(prefix) and name not in known)
    return [(name, next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.75)), None)) for name in strangers]


def _unreadable_files(settings_class: type[EnvironmentSettings], given: dict[str, str]) -> list[Problem]:
    problems = []
    for variable in settings_class.variables():
        name = f"{variable.name}_FILE"
        if not variable.secret or name not in given:
            continue
        if variable.name in given:
            problems.append(Problem(name, given[name], f"must not stand beside {variable.name}; remove one of them"))
        elif not os.access(given[name], os.R_OK) or not Path(given[name]).is_file():
            problems.append(Problem(name, given[name], "must be a file that this process can read"))
    return problems


def _first_of_each_field(error: ValidationError) -> list[Any]:
    found: dict[object, Any] = {}
    for item in error.errors(include_url=False, include_input=False):
        found.setdefault(item["loc"][0] if item["loc"] else "", item)
    return list(found.values())


def _problem(settings_class: type[EnvironmentSettings], item: Any, given: dict[str, str]) -> Problem:
    name = str(item["loc"][0])
    field = settings_class.model_fields[name]
    variable = _variable(settings_class.model_config, name)
    if item["type"] == "missing":
        return Problem(variable, None, f"is required: {field.description or type_words(field)}")
    rule = str(item["ctx"]["error"]) if item["type"] == "value_error" else f"must be {type_words(field)}"
    default = default_words(field)
    way_out = f"; remove it to use {default}" if default else ""
    value = None if is_secret(field) else given.get(variable)
    return Problem(variable, value, rule + way_out)


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
        found = ServerSettings._loaded[cls]
        if not isinstance(found, cls):
            raise TypeError(f"{cls.__name__} was replaced by {type(found).__name__}")
        return found

    @staticmethod
    def use(settings: EnvironmentSettings) -> None:
        """Make `settings` what `current()` of its class returns; tests use it too."""
        if isinstance(settings, ServerSettings):
            ServerSettings._loaded[type(settings)] = settings
