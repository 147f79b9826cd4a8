"""One store of images for all tests of containers, and the project's image in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.images import Images
from tests.live.project import Project
from tests.render.conftest import _apart as _apart
from tests.render.support import Answers, by_copier, scratch, succeed

IMAGE = "localhost/acme-notes:dev"


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    """Return a store with the base image in it."""
    store = Images(Path(tempfile.mkdtemp(prefix="images-")))
    try:
        store.prepare()
        yield store
    finally:
        store.remove()


@pytest.fixture(scope="session")
def locked(_apart: None) -> Callable[[Answers], Project]:
    """Return what renders a project and locks it, as its user commits it; each set of answers once."""
    made: dict[Answers, Project] = {}

    def make(answers: Answers) -> Project:
        if answers not in made:
            target = Path(tempfile.mkdtemp(dir=scratch())) / "project"
            shutil.copytree(by_copier(answers), target)
            succeed("uv", "lock", "--quiet", cwd=target)
            made[answers] = Project(target, "acme-notes")
        return made[answers]

    return make


@pytest.fixture(scope="session")
def project(locked: Callable[[Answers], Project]) -> Project:
    """Return the project of somebody who pressed enter at every question; nobody may change it."""
    return locked(())


@pytest.fixture(scope="session")
def image(images: Images, project: Project) -> str:
    """Return the name of its image."""
    built = images.build(project.root, IMAGE)
    assert built.returncode == 0, built.stdout
    return IMAGE
