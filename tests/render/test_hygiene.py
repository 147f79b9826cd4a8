"""What every file of a render looks like, whatever was answered (M1, M7)."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from tests.render.support import (
    AWKWARD,
    QUESTIONS,
    TEMPLATE,
    Answers,
    by_copier,
    files,
    is_yours,
    label,
    listing,
    matrix,
    options,
    template,
)

MOST_FILES = 110
"""With the default answers."""
MOST_FILES_OF_YOURS = 25
MORE_BY_ANSWERS, MORE_OF_YOURS_BY_ANSWERS = 12, 3
"""What a database, a second CI system and an Argo CD may add to the default answers' files."""

FORBIDDEN_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)

JINJA = re.compile(r"\{%|%\}|\{#|cookiecutter|_copier_")
"""What only a template holds; `{{` alone is also the syntax of workflows, alerts and dashboards."""

PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
}


def texts(answers: Answers) -> dict[str, str]:
    """Map each text file of a render to its text."""
    return {name: content.decode() for name, content in files(by_copier(answers)).items() if b"\0" not in content}


def faults(text: str) -> list[str]:
    """Return what is wrong with the layout of a text file."""
    found = {
        "a carriage return": "\r" in text,
        "no newline at the end": bool(text) and not text.endswith("\n"),
        "an empty line at the end": text.endswith("\n\n"),
        "blanks at the end of a line": re.search(r"[ \t]$", text, flags=re.MULTILINE) is not None,
        "a byte order mark": text.startswith("\ufeff"),
        "Jinja left over": JINJA.search(text) is not None,
    }
    return [fault for fault, is_there in found.items() if is_there]


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M7_text_files_are_clean(answers: Answers) -> None:
    found = {name: faults(text) for name, text in texts(answers).items()}

    assert {name: faulty for name, faulty in found.items() if faulty} == {}


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M7_data_files_can_be_read(answers: Answers) -> None:
    for name, text in texts(answers).items():
        if parse := PARSERS.get(PurePosixPath(name).suffix):
            try:
                parse(text)
            except (ValueError, yaml.YAMLError) as error:
                pytest.fail(f"{name}: {error}")


def test_M1_awkward_texts_arrive_in_toml_and_json() -> None:
    texts_of_files, answers = texts(AWKWARD), dict(AWKWARD)

    project = tomllib.loads(texts_of_files["pyproject.toml"])["project"]
    entry = json.loads(texts_of_files["server.json"])

    assert (project["name"], project["description"]) == (answers["project_slug"], answers["description"])
    assert (entry["title"], entry["description"]) == (answers["project_name"], answers["description"])


@pytest.mark.parametrize("answers", [(), AWKWARD], ids=["plain", "awkward"])
def test_M1_registry_entry_fits_the_registry(answers: Answers) -> None:
    # The bounds of schema 2025-12-11 that answers could break; the whole schema is not ours to copy.
    text = {"type": "string", "minLength": 1, "maxLength": 100}
    schema = {
        "type": "object",
        "required": ["$schema", "name", "description", "version", "remotes"],
        "additionalProperties": False,
        "properties": {
            "$schema": {"const": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"},
            "name": {"type": "string", "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$", "maxLength": 200},
            "title": text,
            "description": text,
            "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            "remotes": {
                "type": "array",
                "items": {
                    "required": ["type", "url"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "streamable-http"},
                        "url": {"type": "string", "pattern": r"^https?://[^\s]+$"},
                    },
                },
            },
        },
    }

    jsonschema.validate(json.loads(texts(answers)["server.json"]), schema)


@pytest.mark.parametrize("answers", matrix(), ids=label)
def test_M1_project_is_small_enough_to_read(answers: Answers) -> None:
    names = list(files(by_copier(answers)))

    assert len(names) <= MOST_FILES + MORE_BY_ANSWERS
    assert len([name for name in names if is_yours(name)]) <= MOST_FILES_OF_YOURS + MORE_OF_YOURS_BY_ANSWERS


def test_M1_project_of_the_default_answers_is_small_enough_to_read() -> None:
    names = list(files(by_copier()))

    assert len(names) <= MOST_FILES
    assert len([name for name in names if is_yours(name)]) <= MOST_FILES_OF_YOURS


def test_M2_each_path_is_legal_on_windows() -> None:
    rendered = {name for answers in matrix() for name in files(by_copier(answers))}

    for name in {*rendered, *listing()}:
        assert not [part for part in name.split("/") if FORBIDDEN_ON_WINDOWS.search(part)], name
        assert len(name) <= 180, name
    assert len({name.lower() for name in rendered}) == len(rendered)


def test_M6_python_of_the_template_holds_no_jinja() -> None:
    marks = re.compile(r"\{\{|\{%|\{#|cookiecutter")

    for path in sorted((template() / TEMPLATE).rglob("*.py")):
        assert not marks.search(path.read_text(encoding="utf-8")), path


def test_M7_root_gitignore_keeps_secrets_out_and_the_lock_in() -> None:
    ignored = texts(())[".gitignore"].splitlines()

    assert {".env", ".venv/"} <= set(ignored)
    assert "uv.lock" not in ignored


def test_M1_every_choice_has_a_place_in_the_matrix() -> None:
    for name, question in QUESTIONS.items():
        for value in question.get("choices", {}).values():
            assert any((name, value) in answers for answers in matrix())


def test_M1_each_two_values_of_two_options_meet_in_the_matrix() -> None:
    for (_, ones), (_, others) in itertools.combinations(options().items(), 2):
        for pair in itertools.product(ones, others):
            wanted = {answer for part in pair for answer in part}
            assert any(wanted <= set(answers) for answers in matrix()), pair
