"""What the tests of pinned resources share: an authority, an origin, an empty environment, a log in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.render.conftest import _apart as _apart
from tests.resources.internet import PUBLIC, Internet
from tests.resources.internet import internet as internet
from tests.resources.origin import NAMES, Authority, Origin
from tests.support.inside import _environment as _environment
from tests.support.inside import _logging as _logging
from tests.support.inside import anyio_backend as anyio_backend
from tests.support.inside import log as log


@pytest.fixture(autouse=True)
def _trust(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """Trust the authority, as a machine does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that everybody here trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def origin(authority: Authority) -> Iterator[Origin]:
    """Run an origin on loopback."""
    found = Origin(authority.server(NAMES))
    with found.listening():
        yield found


@pytest.fixture
def public(internet: Internet, origin: Origin) -> Origin:
    """Return the origin as files.example.com of the internet."""
    internet.place("files.example.com", origin.port, PUBLIC)
    return origin
