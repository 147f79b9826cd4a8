"""The answer `team` reaches every job, image and object, later ones too; the sample of it works (M5)."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests.pipelines.standards import ignored, in_images, in_jobs, in_objects, in_texts
from tests.render.support import QUESTIONS, ROOT, Answers, by_copier, render_by_copier, template

SAMPLE = ROOT / "examples/team/team.yml"
ALL = {"ci": "both", "delivery": "gitops", "database": "postgres", "registry": "public"}


@functools.cache
def sample() -> dict[str, Any]:
    """Return the sample's answers."""
    found: dict[str, Any] = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    return found


def answers(**more: str) -> Answers:
    """Return answers with the sample's team."""
    return (("team", yaml.safe_dump(sample()["team"])), *(ALL | more).items())


def copied(target: Path, **more: str) -> Path:
    """Return a render that a test may change."""
    return shutil.copytree(by_copier(answers(**more)), target / "project")


def test_M5_sample_names_every_key_and_is_taken_as_a_file_of_answers(tmp_path: Path) -> None:
    rule = QUESTIONS["team"]["validator"]

    copier.run_copy(str(template()), tmp_path / "project", sample(), defaults=True, quiet=True)

    assert set(sample()["team"]) == {key for key in sample()["team"] if f"'{key}'" in rule}
    assert len(sample()["team"]) == 12
    recorded = yaml.safe_load((tmp_path / "project/.copier-answers.yml").read_text(encoding="utf-8"))
    assert {name: recorded[name] for name in sample()} == sample()


@pytest.mark.parametrize("more", [{}, {"edge": "caddy", "delivery": "push"}, {"edge": "mesh"}], ids=str)
def test_M5_no_job_image_or_object_ignores_a_standard(more: dict[str, str], tmp_path: Path) -> None:
    assert ignored(copied(tmp_path, **more), sample()["team"]) == []


KUBERNETES = "deploy/kubernetes"
NEW_JOB = "jobs:\n  own:\n    runs-on: ubuntu-24.04\n    timeout-minutes: 5\n    steps: [{run: uv sync}]\n"
SABOTEURS = {
    "a new job with a runner of its own": (".github/workflows/ci.yaml", "jobs:\n", NEW_JOB, "own: runner"),
    "a workflow without the index": (".github/workflows/probe.yaml", "  PIP_INDEX_URL:", "  X:", "PIP_INDEX_URL"),
    "a workflow without the proxy": (".github/workflows/update.yaml", "  https_proxy:", "  X:", "https_proxy"),
    "a job that overrides it": (
        ".github/workflows/deploy.yaml",
        "    timeout-minutes: 30\n",
        "    timeout-minutes: 30\n    env: {SSL_CERT_FILE: /mine}\n",
        "image: SSL_CERT_FILE",
    ),
    "a build without certificates": (".github/workflows/ci.yaml", "id=ca,", "id=x,", "build without id=ca"),
    "a build of GitLab's without the index": (".gitlab/chassis.yml", "--build-arg PIP_INDEX_URL", "", "build without"),
    "a job of GitLab's with tags of its own": (
        ".gitlab/chassis.yml",
        "check:\n",
        "check:\n  tags: [mine]\n",
        "check: runner",
    ),
    "an image of GitLab's own": (".gitlab/chassis.yml", "scan:\n", "scan:\n  image: python:3\n", "scan: image"),
    "a stage without the proxy": ("deploy/Dockerfile", "ARG http_proxy=", "ARG x=", "ARG http_proxy"),
    "a step without certificates": ("deploy/Dockerfile", "--mount=type=secret,id=ca", "", "without ca"),
    "another base": ("deploy/Dockerfile", "ARG BASE_IMAGE=", "ARG BASE_IMAGE=python:3#", "Dockerfile: base"),
    "compose with an image of no registry": (
        "deploy/compose.yaml",
        "images.acme.example/servers/",
        "",
        "compose: server: registry",
    ),
    "objects without annotations": (
        f"{KUBERNETES}/gitops/kustomization.yaml",
        "acme.example/contact",
        "acme.example/other",
        "only-gitops: Job/acme-notes-gate: annotations",
    ),
    "a component without labels": (
        f"{KUBERNETES}/monitoring/kustomization.yaml",
        "acme.example/tier",
        "acme.example/other",
        "only-monitoring: CronJob/acme-notes-probe: labels",
    ),
    "pods without labels": (
        f"{KUBERNETES}/base/kustomization.yaml",
        "includeTemplates: true",
        "includeTemplates: false",
        "pod: labels",
    ),
    "a container without certificates": (f"{KUBERNETES}/gitops/gate.yaml", "SSL_CERT_FILE", "X", "gate: ca"),
    "a limit of its own": (f"{KUBERNETES}/base/server.yaml", 'limits: {cpu: "2"', 'limits: {cpu: "3"', ": limits"),
    "a value of the template's": (
        "deploy/compose.yaml",
        "name: acme-notes",
        "name: ubuntu-24",
        "compose.yaml: ubuntu-2",
    ),
}


@pytest.mark.parametrize("story", SABOTEURS)
def test_M5_one_that_ignores_a_standard_is_told(story: str, tmp_path: Path) -> None:
    name, old, new, told = SABOTEURS[story]
    project = copied(tmp_path)
    path = project / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    assert [place for place in _walked(project, name) if told in place]


def _walked(project: Path, name: str) -> Iterator[str]:
    team = sample()["team"]
    if name.startswith(KUBERNETES):
        part = name.removeprefix(f"{KUBERNETES}/").partition("/")[0]
        yield from in_objects(project, team, f"only-{part}")
    else:
        yield from (in_jobs if name.startswith(".git") else in_images)(project, team)
        yield from in_texts(project)


def test_M5_a_team_that_says_nothing_changes_nothing(tmp_path: Path) -> None:
    nothing = render_by_copier(
        template(), tmp_path / "project", (("team", "{labels: {}, annotations: {}, limits: {}}"),)
    )

    names = [
        "deploy/Dockerfile",
        "deploy/compose.yaml",
        "deploy/kubernetes/base/server.yaml",
        ".github/workflows/ci.yaml",
    ]
    assert [(nothing / name).read_text() for name in names] == [(by_copier() / name).read_text() for name in names]
