"""Servers that the live tests share; each is started when the first test asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.live.fleet import Keys
from tests.live.peers import Crowd
from tests.live.project import Project, ServerProcess, default_project, extended_project
from tests.render.conftest import _apart as _apart


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="session")
def project(_apart: None) -> Project:
    """Return the default project, installed."""
    return default_project()


@pytest.fixture(scope="session")
def extended(_apart: None) -> Project:
    """Return the project with what the tests add to it, installed."""
    return extended_project()


@pytest.fixture(scope="session")
def server(project: Project) -> Iterator[ServerProcess]:
    """Return the server of the default project."""
    with ServerProcess(project) as process:
        yield process


@pytest.fixture(scope="session")
def everything(extended: Project) -> Iterator[ServerProcess]:
    """Return the server that has something for every scenario."""
    with ServerProcess(extended) as process:
        yield process


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Return the keys of the callers that the tests of limits share."""
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    """Return callers that leave when the test ends."""
    async with AsyncExitStack() as stack:
        yield Crowd(stack)
