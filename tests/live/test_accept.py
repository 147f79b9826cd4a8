"""What a client accepts decides the shape of each answer, and no single type is refused (T1, T2)."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from contextlib import closing
from http.client import HTTPConnection
from itertools import count, pairwise
from statistics import median
from urllib.parse import urlsplit

import pytest

from tests.live.curl import BOTH, ERAS, EVENTS, HANDSHAKE, JSON, STATELESS, Conversation, Era, converse, initialize
from tests.live.project import DEADLINE, ServerProcess

pytestmark = pytest.mark.xdist_group("live")

ACCEPTS = {
    JSON: JSON,
    EVENTS: EVENTS,
    BOTH: None,
    "*/*": None,
    "": None,
    "application/*": JSON,
}
"""Accept, and the type of the answer where only one will do; else the era chooses."""
CHOSEN = {HANDSHAKE: EVENTS, STATELESS: JSON}
"""What the era sends, when the client takes both, for an answer of a tool that might have reported progress."""

STEPS = 3
GAP = 0.2
REPEATED = 300
"""Enough to meet a server that is still busy with the first of two requests."""
ACKNOWLEDGED = 0.04
"""Seconds after which Linux acknowledges what it received, when it has nothing to say itself."""

numbers = count(1)

accepts = pytest.mark.parametrize("accept", ACCEPTS, ids=lambda accept: accept or "none")


@pytest.fixture(scope="module")
def conversations(server: ServerProcess) -> dict[Era, Conversation]:
    """Return one conversation for each era, opened with both types."""
    return {era: converse(server.url, era) for era in ERAS}


@accepts
@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T2_answer_has_the_shape_that_was_asked_for(
    accept: str, era: Era, conversations: dict[Era, Conversation]
) -> None:
    number = next(numbers)

    answer = conversations[era].call("ping", accept=accept, id=number)

    assert (answer.status, answer.type) == (200, ACCEPTS[accept] or CHOSEN[era])
    assert [message["id"] for message in answer.messages] == [number]
    assert answer.message["result"]["content"] == [{"type": "text", "text": "pong"}]


@accepts
@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T2_progress_is_sent_to_who_can_read_it_and_to_nobody_else(
    accept: str, era: Era, conversations: dict[Era, Conversation]
) -> None:
    answer = conversations[era].call("ping", {"steps": 2, "interval": 0}, accept=accept, progress=True)

    methods = [message.get("method") for message in answer.messages]
    if ACCEPTS[accept] == JSON:
        assert (answer.type, methods) == (JSON, [None])
    else:
        assert (answer.type, methods) == (EVENTS, ["notifications/progress", "notifications/progress", None])
    assert answer.message["result"]["content"] == [{"type": "text", "text": "pong"}]


@accepts
def test_T2_session_opens_with_each_accept_and_answers_every_other(accept: str, server: ServerProcess) -> None:
    opened = initialize(server.url, accept)
    assert (opened.status, opened.type) == (200, ACCEPTS[accept] or EVENTS)
    assert opened.message["result"]["protocolVersion"] == HANDSHAKE.version

    conversation = converse(server.url, HANDSHAKE, accept)

    types = {other: conversation.post("tools/list", accept=other).type for other in ACCEPTS}
    assert types == {other: wanted or JSON for other, wanted in ACCEPTS.items()}


@accepts
@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T2_protocol_error_comes_in_the_same_shape(
    accept: str, era: Era, conversations: dict[Era, Conversation]
) -> None:
    answer = conversations[era].call("no_such_tool", accept=accept)

    assert answer.message["error"]["code"] == -32602
    # An HTTP error has one shape: clients read its status first.
    refused = era is STATELESS
    assert answer.status == (400 if refused else 200)
    assert answer.type == (JSON if refused else ACCEPTS[accept] or JSON)


@pytest.mark.parametrize(
    "accept",
    ["text/event-stream;q=0.5, application/json;q=0", "TEXT/EVENT-STREAM", "text/*"],
)
@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T2_other_ways_to_say_events_only(accept: str, era: Era, conversations: dict[Era, Conversation]) -> None:
    assert conversations[era].call("ping", accept=accept).type == EVENTS


GATE = """curl -sf -X POST $URL -H "Content-Type: application/json" -H "Accept: text/event-stream" --max-time 10 -d \
'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},\
"clientInfo":{"name":"ci-gate","version":"1.0"}}}'"""
"""To the letter what a deployment gate in use sends."""


def test_T2_the_gate_that_others_already_run_succeeds(server: ServerProcess) -> None:
    command = shlex.split(GATE.replace("$URL", server.url))

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert '"serverInfo"' in done.stdout
    assert done.stdout.startswith("event: message")


@pytest.mark.parametrize("name", ["  ping", "ping  ", "\tping \t"])
def test_T3_white_space_around_a_header_is_no_part_of_it(name: str, server: ServerProcess) -> None:
    body, head = request(Conversation(server.url, STATELESS), steps=0)

    answer = exchange(server.url, head.replace(b"Mcp-Name: ping", b"Mcp-Name:" + name.encode()), body)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"pong"' in answer


# --- the stream itself, byte by byte ------------------------------------------------------------------------------


def request(conversation: Conversation, steps: int) -> tuple[bytes, bytes]:
    """Return body and head of a ping with progress, for a socket."""
    headers, text = conversation.message(
        "tools/call",
        {"name": "ping", "arguments": {"steps": steps, "interval": GAP}, "_meta": {"progressToken": "p"}},
        accept=EVENTS,
    )
    body = text.encode()
    headers |= {"Host": urlsplit(conversation.url).netloc, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return body, f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode()


def connect(url: str) -> socket.socket:
    """Open a connection to the server."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), DEADLINE)


def exchange(url: str, head: bytes, body: bytes) -> bytes:
    """Send one request as it stands and return everything until the server closes."""
    with connect(url) as connection:
        connection.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def chunks(connection: socket.socket) -> tuple[list[str], list[tuple[float, bytes]]]:
    """Return the lines of the head, and each chunk of the body with the time at which it was there."""
    with connection.makefile("rb") as stream:
        head = list(iter(lambda: stream.readline().decode().strip(), ""))
        received = []
        while size := int(stream.readline(), 16):
            received.append((time.monotonic(), stream.read(size)))
            stream.readline()
        stream.readline()
        return head, received


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T1_stream_has_the_headers_that_keep_it_a_stream(era: Era, conversations: dict[Era, Conversation]) -> None:
    body, head = request(conversations[era], steps=1)

    with connect(conversations[era].url) as connection:
        connection.sendall(head + body)
        (status, *lines), _ = chunks(connection)

    headers = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)}
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in headers["cache-control"]
    assert headers["connection"] == "keep-alive"
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert "content-encoding" not in headers


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T1_each_event_leaves_when_it_is_written(era: Era, conversations: dict[Era, Conversation]) -> None:
    body, head = request(conversations[era], steps=STEPS)

    with connect(conversations[era].url) as connection:
        connection.sendall(head + body)
        _, received = chunks(connection)

    events = [(moment, chunk) for moment, chunk in received if b"data: {" in chunk]
    assert [chunk.count(b"data: {") for _, chunk in events] == [1] * (STEPS + 1)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(events)]
    assert min(gaps) >= GAP * 0.8


@pytest.mark.parametrize("era", ERAS, ids=str)
def test_T1_connection_is_kept_for_the_next_request(era: Era, conversations: dict[Era, Conversation]) -> None:
    with connect(conversations[era].url) as connection:
        statuses = []
        for _ in range(2):
            body, head = request(conversations[era], steps=1)
            connection.sendall(head + body)
            lines, _ = chunks(connection)
            statuses.append(lines[0])

    assert statuses == ["HTTP/1.1 200 OK"] * 2


def repeat(conversation: Conversation, accept: str) -> list[tuple[int, float]]:
    """Send one message again and again over one connection; return each status and the seconds it took."""
    address = urlsplit(conversation.url)
    headers, body = conversation.message("ping", accept=accept, id=1)
    answers = []
    with closing(HTTPConnection(address.netloc, timeout=DEADLINE)) as connection:
        for _ in range(REPEATED):
            began = time.monotonic()
            connection.request("POST", address.path, body, headers)
            with connection.getresponse() as answer:
                answer.read()
                answers.append((answer.status, time.monotonic() - began))
    return answers


@pytest.mark.parametrize("accept", [EVENTS, JSON])
def test_T7_id_is_free_for_the_next_request_once_its_answer_has_ended(accept: str, server: ServerProcess) -> None:
    answers = repeat(converse(server.url, HANDSHAKE), accept)

    assert [status for status, _ in answers] == [200] * REPEATED


@pytest.mark.parametrize("accept", [EVENTS, JSON])
def test_T1_no_part_of_an_answer_waits_until_the_client_acknowledged_another(
    accept: str, server: ServerProcess
) -> None:
    answers = repeat(converse(server.url, HANDSHAKE), accept)

    assert median(seconds for _, seconds in answers) < ACKNOWLEDGED / 2
