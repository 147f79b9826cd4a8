"""C1, C2: the lock is part of the image, and with copies in it a container needs no network at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mcp_chassis.fetching import Fetched
from mcp_chassis.pins import LOCK, Pin, write_lock
from mcp_chassis.resources import Copies
from tests.deploy.images import Images
from tests.deploy.test_container import PRODUCTION, command, inside
from tests.live.project import Project, ServerProcess

pytestmark = pytest.mark.xdist_group("containers")

URL = "https://files.example.com/v1.2/colours.json"
GOOD = b'{"colours": ["red"]}'
PIN = Pin.of(Fetched(GOOD, whole=True, media_type="application/json"))
READ = "print(open('/app/resources.lock.json').read())"
COPIES = "/app/server/acme_notes/copies"


def test_C2_lock_is_part_of_the_image_and_an_empty_one_where_nothing_is_pinned(images: Images, image: str) -> None:
    assert json.loads(inside(images, image, READ)) == {"format": 1, "resources": {}}


def test_C1_container_with_copies_starts_without_a_network_and_one_without_does_not(
    images: Images, project: Project, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(project.root, root)
    write_lock({URL: PIN}, root / LOCK)
    (root / LOCK).chmod(0o600)  # as somebody with a strict umask has it
    Copies(root / "src/acme_notes/copies").keep(PIN, GOOD)
    built = images.build(root, "localhost/pinned")
    assert built.returncode == 0, built.stdout
    offline = {**PRODUCTION, "MCP_RESOURCE_INTERVAL": "0"}

    with ServerProcess(
        project, "localhost/pinned", command=command(images, **offline, MCP_RESOURCE_CACHE=COPIES)
    ) as server:
        assert server.url
        assert server.wait_for("resource_unreachable")["hint"] == "the verified copy serves on"
        assert server.stop() == 0
    with ServerProcess(project, "localhost/pinned", command=command(images, **offline)) as server:
        assert server.wait() == 78
        assert "files.example.com has no address" in server.output
