"""Questions: few, answered by default, and strict with an example of what works (M1)."""

from __future__ import annotations

import keyword
import re
import sys
import tomllib
from pathlib import Path

import pytest
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, meta

from tests.render.support import (
    CONFIG,
    QUESTIONS,
    ROOT,
    TEMPLATE,
    by_copier,
    files,
    native,
    render_by_cookiecutter,
    render_by_copier,
    run,
    succeed,
    template,
)
from tests.render.teams import BAD_TEAMS, GOOD_TEAMS
from tests.render.test_parity import unrecord

BAD = [
    ("project_name", "", "Acme Notes"),
    ("project_name", " Acme", "Acme Notes"),
    ("project_name", "Acme ", "Acme Notes"),
    ("project_name", 'Acme "Notes"', "Acme Notes"),
    ("project_name", "Acme \\ Notes", "Acme Notes"),
    ("project_name", "Acme\tNotes", "Acme Notes"),
    ("project_name", "Acme\u202eNotes", "Acme Notes"),
    ("project_name", "<b>Acme</b>", "Acme Notes"),
    ("project_name", "Acme {Notes}", "Acme Notes"),
    ("project_name", "A" * 61, "Acme Notes"),
    ("project_slug", "ab", "acme-notes"),
    ("project_slug", "a" * 41, "acme-notes"),
    ("project_slug", "Acme-Notes", "acme-notes"),
    ("project_slug", "acme_notes", "acme-notes"),
    ("project_slug", "acme--notes", "acme-notes"),
    ("project_slug", "-acme", "acme-notes"),
    ("project_slug", "acme-", "acme-notes"),
    ("project_slug", "1st-notes", "acme-notes"),
    ("project_slug", "acme notes", "acme-notes"),
    ("project_slug", "acme-notes\n", "acme-notes"),
    ("project_slug", "nötes", "acme-notes"),
    ("project_slug", "mcp-chassis", "acme-notes"),
    ("project_slug", "sse-starlette", "acme-notes"),
    ("project_slug", "py-compile", "acme-notes"),
    ("project_slug", "lambda", "acme-notes"),
    ("project_slug", "python", "acme-notes"),
    ("description", "", "Keeps short notes"),
    ("description", "Two\nlines", "Keeps short notes"),
    ("description", "Ends blank ", "Keeps short notes"),
    ("description", 'Says "hi"', "Keeps short notes"),
    ("description", "Ends in a \\", "Keeps short notes"),
    ("description", "Costs $HOME", "Keeps short notes"),
    ("description", "Is a {brace}", "Keeps short notes"),
    ("description", "x" * 101, "Keeps short notes"),
    ("organisation", "example", "com.example"),
    ("organisation", "com.example/notes", "com.example"),
    ("organisation", "com..example", "com.example"),
    ("organisation", "com.example.", "com.example"),
    ("organisation", "com.-example", "com.example"),
    ("public_url", "http://notes.example.com", "https://notes.example.com"),
    ("public_url", "https://notes.example.com/", "https://notes.example.com"),
    ("public_url", "https://notes.example.com/mcp", "https://notes.example.com"),
    ("public_url", "https://notes.example.com:8443", "https://notes.example.com"),
    ("public_url", "https://user@notes.example.com", "https://notes.example.com"),
    ("public_url", "https://127.0.0.1", "https://notes.example.com"),
    ("public_url", "https://localhost", "https://notes.example.com"),
    ("public_url", "notes.example.com", "https://notes.example.com"),
    ("tool_timeout", "0", "120"),
    ("tool_timeout", "-5", "120"),
    ("tool_timeout", "3601", "120"),
    ("tool_timeout", "1.5", "120"),
    ("tool_timeout", "2m", "120"),
    ("tool_timeout", "0120", "120"),
    ("edge", "apache", "nginx"),
    ("database", "sqlite", "postgres"),
    ("delivery", "helm", "gitops"),
    ("ci", "jenkins", "gitlab"),
    ("registry", "private", "https://mcp-registry.example.com"),
    ("registry", "http://mcp-registry.example.com", "https://mcp-registry.example.com"),
    ("registry", "https://mcp-registry.example.com/v0", "https://mcp-registry.example.com"),
    ("registry", "https://someone@mcp-registry.example.com", "https://mcp-registry.example.com"),
    ("registry", "", "https://mcp-registry.example.com"),
    *BAD_TEAMS,
]

GOOD = [
    ("project_name", "X"),
    ("project_name", "N" * 60),
    ("project_name", "3D Notes"),
    ("project_name", "Email"),
    ("project_name", "日本語"),
    ("project_name", "Notes -- " + "very " * 9 + "long"),
    ("project_slug", "abd"),
    ("project_slug", "a-1"),
    ("project_slug", "a" * 40),
    ("description", "d" * 100),
    ("description", "Ünïcode: it's #1, 100% & more"),
    ("organisation", "io.github.Acme-Corp"),
    ("public_url", "https://a.b-c.example.co.uk"),
    ("tool_timeout", "1"),
    ("tool_timeout", "3600"),
    ("registry", "https://mcp.example.com:8443"),
    *GOOD_TEAMS,
]


def sentence(text: str) -> str:
    """Return the text with its white space evened out, for a terminal breaks lines where it likes."""
    return " ".join(text.split())


@pytest.mark.parametrize(("name", "answer", "example"), BAD)
def test_M1_bad_answer_is_refused_by_copier_with_an_example(
    name: str, answer: str, example: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"'{name}': ") as refusal:
        render_by_copier(template(), tmp_path / "project", ((name, answer),))

    assert example in sentence(str(refusal.value))
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(("name", "answer", "example"), BAD)
def test_M1_bad_answer_is_refused_by_cookiecutter_with_an_example(
    name: str, answer: str, example: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # cookiecutter checks choices by itself; the rest is said by our hook, on standard error.
    with pytest.raises((FailedHookException, ValueError)) as refusal:
        render_by_cookiecutter(template(), tmp_path, ((name, answer),))

    said = sentence(f"{capfd.readouterr().err} {refusal.value}")
    assert re.search(rf"\b{name}(: |, but)", said), said
    assert example in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "answer"), GOOD)
def test_M1_answer_at_the_edge_is_accepted_by_both_engines(name: str, answer: str, tmp_path: Path) -> None:
    ours = files(render_by_copier(template(), tmp_path / "copier", ((name, answer),)))
    theirs = files(render_by_cookiecutter(template(), tmp_path / "cookiecutter", ((name, answer),)))

    unrecord(ours)
    assert ours == theirs


@pytest.mark.parametrize("answer", ["{runner: 5}", "{labels: {cost-centre: 7}}", "{labels: {true: on}}"])
def test_M5_copier_wants_texts_where_cookiecutter_makes_them(answer: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'team': "):
        render_by_copier(template(), tmp_path / "project", (("team", answer),))


def test_M1_each_example_in_a_refusal_works() -> None:
    refused = {name for name, _, _ in BAD}

    for name, answer, example in sorted(set(BAD)):
        assert not problem(name, example), f"{name}: {answer!r} is answered with {example!r}"
    assert refused == set(QUESTIONS)


def problem(name: str, answer: str) -> str:
    """Return what the validator of a question says about an answer."""
    environment = Environment()
    environment.filters["regex_search"] = lambda value, pattern: getattr(re.search(pattern, value), "group", str)()
    rule = environment.from_string(QUESTIONS[name].get("validator", ""))
    return rule.render(native(((name, answer),))).strip()


def test_M1_at_most_twelve_questions_each_with_default_and_consequence() -> None:
    assert len(QUESTIONS) <= 12
    for name, question in QUESTIONS.items():
        assert question["default"], name
        assert len(question["help"]) > 40, f"{name}: help has to say what follows from the answer"
        assert "choices" in question or question["validator"], name


def test_M1_validators_use_their_own_answer_only() -> None:
    for name, question in QUESTIONS.items():
        tree = Environment(extensions=[]).parse(question.get("validator", "").replace("| regex_search", "| replace"))
        assert meta.find_undeclared_variables(tree) <= {name}


def test_M5_refusal_of_an_unknown_key_lists_every_known_one() -> None:
    message = problem("team", "{runners: linux-large}")

    rule = QUESTIONS["team"]["validator"]
    known = {*re.findall(r"'(\w+)': '\^", rule), *re.findall(r"key == '(\w+)'", rule)}
    assert len(known) == 12
    assert known <= set(re.findall(r"\w+", message.replace("runners is", "")))


def test_M5_every_key_of_a_team_is_used_by_a_file() -> None:
    keys = set(re.findall(r"'(\w+)': '\^|key == '(\w+)'", QUESTIONS["team"]["validator"]))
    used = {
        key
        for path in (template() / TEMPLATE).rglob("*")
        if path.is_file()
        for key in re.findall(rb"cookiecutter\.team\.(\w+)", path.read_bytes())
    }

    assert {key.decode() for key in used} == {one or other for one, other in keys}


def test_M1_template_runs_no_code_of_its_own() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions", "_external_data"} & set(CONFIG)


@pytest.mark.parametrize("group", ["standard library", "keywords", "dependencies", "folders"])
def test_M1_slug_cannot_hide_what_the_project_needs(group: str) -> None:
    names = {
        "standard library": {name for name in sys.stdlib_module_names if not name.startswith("_")},
        "keywords": {*keyword.kwlist, *keyword.softkwlist},
        "dependencies": dependencies(),
        "folders": {name.partition("/")[0] for name in files(by_copier()) if "/" in name},
    }[group]

    slugs = {name.lower().replace("_", "-") for name in names}
    free = {slug for slug in slugs if re.fullmatch(r"[a-z][a-z0-9-]{2,39}", slug)}

    assert {slug for slug in free if not problem("project_slug", slug)} == set()


def dependencies() -> set[str]:
    """Return the names that the project and its chassis ask for."""
    chassis = tomllib.loads((ROOT / TEMPLATE / "chassis/pyproject.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((by_copier() / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*chassis["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return {re.split(r"[^\w-]", requirement)[0] for requirement in asked} | {"mcp-chassis"}


def commands(name: str, answer: str, target: Path) -> dict[str, list[str | Path]]:
    """Return the command line of each engine, as the README gives them, for one answer."""
    return {
        "copier": ["copier", "copy", "--defaults", "--data", f"{name}={answer}", template(), target],
        "cookiecutter": [
            *("cookiecutter", "--no-input", "--output-dir"),
            *(target.parent, template(), f"{name}={answer}"),
        ],
    }


@pytest.mark.parametrize("engine", ["copier", "cookiecutter"])
def test_M1_refusal_ends_the_command_and_names_the_question(engine: str, tmp_path: Path) -> None:
    command = commands("project_slug", "Bad_Slug", tmp_path / "Bad_Slug")[engine]

    done = run(*command, cwd=tmp_path)

    assert done.returncode != 0
    assert re.search("project_slug'?: use 3 to 40 .* like acme-notes", sentence(done.stdout))


@pytest.mark.parametrize("engine", ["copier", "cookiecutter"])
def test_M1_next_steps_are_printed_in_order(engine: str, tmp_path: Path) -> None:
    target = tmp_path / "acme-notes"

    said = succeed(*commands("project_name", "Acme Notes", target)[engine], cwd=tmp_path)

    steps = [
        f'cd "{target}"',
        "uv run acme-notes refresh",
        "git init",
        "git add --all",
        "git commit",
        "uv run pytest",
        "uv run acme-notes serve",
        "claude mcp add --transport http acme-notes http://127.0.0.1:8080/mcp",
    ]
    places = [said.find(step) for step in steps]
    assert -1 not in places, said
    assert places == sorted(places)
