"""Sessions are counted for the address of the client, which nobody but the edge can name (L1)."""

from __future__ import annotations

import pytest

from mcp_chassis.http.admission import client_address

EDGE = "127.0.0.1"
TABLE = [
    # peer, X-Forwarded-For, address
    ("192.0.2.1", [], "192.0.2.1"),
    ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
    ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
    ("2001:db8:1:3::1", [], "2001:db8:1:3::/64"),
    ("fe80::1%eth0", [], "fe80::/64"),
    ("::ffff:192.0.2.1", [], "192.0.2.1"),
    ("::ffff:c000:201", [], "192.0.2.1"),
    # a stranger is not believed
    ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),
    ("10.0.0.1", ["198.51.100.9"], "10.0.0.1"),
    ("2001:db8::1", ["198.51.100.9"], "2001:db8::/64"),
    ("::ffff:192.0.2.1", ["198.51.100.9"], "192.0.2.1"),
    # the edge is
    (EDGE, ["198.51.100.9"], "198.51.100.9"),
    ("127.8.8.8", ["198.51.100.9"], "198.51.100.9"),
    ("::1", ["198.51.100.9"], "198.51.100.9"),
    (EDGE, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
    (EDGE, ["::ffff:198.51.100.9"], "198.51.100.9"),
    (EDGE, ["  198.51.100.9  "], "198.51.100.9"),
    # its last word alone: what stands before is the client's
    (EDGE, ["203.0.113.5, 198.51.100.9"], "198.51.100.9"),
    (EDGE, ["203.0.113.5,203.0.113.6 ,198.51.100.9"], "198.51.100.9"),
    (EDGE, ["203.0.113.5", "198.51.100.9"], "198.51.100.9"),
    (EDGE, ["203.0.113.5", "203.0.113.6, 198.51.100.9"], "198.51.100.9"),
    # garbage names nobody, and all who send it share one count
    (EDGE, [], EDGE),
    (EDGE, [""], EDGE),
    (EDGE, ["198.51.100.9,"], EDGE),
    (EDGE, ["unknown"], EDGE),
    (EDGE, ["198.51.100.999"], EDGE),
    (EDGE, ["198.51.100.9:4711"], EDGE),
    (EDGE, ["[2001:db8::1]:4711"], EDGE),
    (EDGE, ["\xff\x00"], EDGE),
    (EDGE, ["1" * 5000], EDGE),
    ("::1", ["garbage"], "::/64"),
    (None, ["198.51.100.9"], "unknown"),
    ("/run/socket", ["198.51.100.9"], "/run/socket"),
]


@pytest.mark.parametrize(("peer", "forwarded", "address"), TABLE)
def test_L1_session_is_counted_for(peer: str | None, forwarded: list[str], address: str) -> None:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    headers = [(b"x-real-ip", b"203.0.113.7"), (b"forwarded", b"for=203.0.113.8"), *headers]

    assert client_address({"client": None if peer is None else (peer, 4711), "headers": headers}) == address


def test_L1_name_of_the_header_is_not_confused_with_others() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.9"), (b"x-forwarded-for-real", b"203.0.113.7")]

    assert client_address({"client": (EDGE, 1), "headers": headers}) == "198.51.100.9"
