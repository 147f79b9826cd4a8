"""What one replica asked, another goes on with: `requestState` sealed by shared keys, and their rotation (S7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.live.curl import STATELESS, Answer, Conversation
from tests.live.project import Project, ServerProcess

pytestmark = pytest.mark.xdist_group("forwarding")

BAD_CONFIGURATION: Final = 78
OLD, NEW = "old-" + "o" * 32, "new-" + "n" * 32
TOOL: Final = "test_input_required_result_request_state"
YES: Final = {"confirm": {"action": "accept", "content": {"ok": True}}}
PHASES: Final = {"first": (OLD,), "both": (OLD, NEW), "turned": (NEW, OLD), "last": (NEW,)}
"""The keys of a replica on its way from the old one to the new one."""


@pytest.fixture(scope="module")
def replicas(extended: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Conversation]]:
    """Return one replica with the keys of each phase, and one without any."""
    folder = tmp_path_factory.mktemp("keys")
    with ExitStack() as stack:
        servers = {}
        for phase, keys in PHASES.items():
            (folder / phase).write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
            given = {"MCP_REQUEST_STATE_KEYS_FILE": str(folder / phase)}
            servers[phase] = stack.enter_context(ServerProcess(extended, given=given))
        servers["alone"] = stack.enter_context(ServerProcess(extended))
        yield {phase: Conversation(server.url, STATELESS) for phase, server in servers.items()}


def asked(replica: Conversation) -> str:
    """Let a tool ask, and return the state that the client has to bring back."""
    result = replica.call(TOOL).message["result"]
    assert result["resultType"] == "input_required", result
    return str(result["requestState"])


def answered(replica: Conversation, state: str) -> Answer:
    """Bring the answer and the state."""
    given: dict[str, Any] = {"name": TOOL, "arguments": {}, "inputResponses": YES, "requestState": state}
    return replica.post("tools/call", given)


@pytest.mark.parametrize(
    ("asking", "finishing"),
    [
        *(("first", "first"), ("first", "both"), ("both", "first")),
        *(("both", "turned"), ("turned", "both"), ("turned", "last"), ("last", "turned")),
    ],
)
def test_S7_round_begun_at_one_replica_ends_at_another_in_each_step_of_a_rotation(
    asking: str, finishing: str, replicas: dict[str, Conversation]
) -> None:
    state = asked(replicas[asking])

    answer = answered(replicas[finishing], state)

    assert answer.message["result"]["content"] == [{"type": "text", "text": "state-ok"}]
    assert "confirming" not in state


@pytest.mark.parametrize(("asking", "finishing"), [("alone", "first"), ("first", "alone"), ("first", "last")])
def test_S7_state_that_this_replica_has_no_key_for_is_refused_clearly(
    asking: str, finishing: str, replicas: dict[str, Conversation]
) -> None:
    answer = answered(replicas[finishing], asked(replicas[asking]))

    assert (answer.status, answer.message["error"]["code"]) == (400, -32602)
    assert "requestState" in answer.message["error"]["message"]


def test_S7_without_keys_a_replica_opens_what_it_sealed_itself(replicas: dict[str, Conversation]) -> None:
    answer = answered(replicas["alone"], asked(replicas["alone"]))

    assert answer.message["result"]["content"] == [{"type": "text", "text": "state-ok"}]


def test_S1_settings_of_replicas_that_are_wrong_stop_the_start_in_one_message(project: Project, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("short\n", encoding="utf-8")
    bad = {
        "MCP_PEER_URL": "https://notes.example.com/mcp",
        "MCP_PEER_CA_FILE": str(tmp_path / "missing.pem"),
        "MCP_REQUEST_STATE_KEYS_FILE": str(tmp_path / "keys"),
    }

    done = project.run("serve", given=bad)

    assert (done.returncode, done.stdout) == (BAD_CONFIGURATION, "")
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert lines[0] == "5 problems stop this server:"
    assert "MCP_PEER_SECRET  is required by MCP_PEER_URL: replicas forward with both or not at all" in lines
    assert any(line.startswith("MCP_STATE_URL=memory://  must be a Redis for MCP_PEER_URL") for line in lines)
    assert any(line.startswith("MCP_REQUEST_STATE_KEYS  must be secrets of at least 32 characters") for line in lines)
