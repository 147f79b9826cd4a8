"""What is fetched is bounded in size, time and redirects, comes over https, and never from inside our network (C1)."""

from __future__ import annotations

import gzip
from urllib.parse import urlsplit

import pytest

from mcp_chassis.fetching import Fetched, Fetcher, FetchFailed, is_public
from tests.resources.internet import ANOTHER, PUBLIC, PUBLIC6, REFUSED, Internet
from tests.resources.origin import NAMES, Answer, Authority, Origin, dripping, flooding, raw, redirect, reply

pytestmark = pytest.mark.anyio

FILE = "/v1.2/definitions.json"
URL = f"https://files.example.com{FILE}"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def fetch(url: str = URL, *internal: str) -> Fetched:
    """Fetch as a server does."""
    return await Fetcher(internal_hosts=internal).fetch(url)


async def refused(url: str = URL, *internal: str) -> tuple[str, str]:
    """Return why nothing was fetched, for logs and for people."""
    with pytest.raises(FetchFailed) as found:
        await fetch(url, *internal)
    return found.value.reason, str(found.value)


async def test_C1_resource_comes_as_it_is_from_the_address_that_was_judged(public: Origin, internet: Internet) -> None:
    public.put(FILE, b"{}", kind="Application/JSON; charset=utf-8")

    assert await fetch(f"{URL}") == Fetched(b"{}", whole=True, media_type="application/json")
    assert internet.looked_up == ["files.example.com"]
    assert internet.dialled == [PUBLIC]
    head = public.heads[0].lower()
    assert "\r\nhost: files.example.com\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head


ANSWERS: dict[str, tuple[Answer, str]] = {
    "not found": (reply(b"", status="404 Not Found"), "status"),
    "broken": (reply(b"{}", status="500 Internal Server Error"), "status"),
    "partial": (reply(b"{}", status="206 Partial Content"), "status"),
    "truncated": (reply(b"{}", length="100"), "unreachable"),
    "truncated chunks": (raw(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"), "unreachable"),
    "two lengths": (raw(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}!"), "unreachable"),
    "absurd length": (reply(b"{}", length="9" * 5000), "unreachable"),
    "no HTTP": (raw(b"\x00\xff garbage\r\n\r\n"), "unreachable"),
    "hangs up": (raw(b""), "unreachable"),
    "endless headers": (dripping(OK, b"X-More: " + b"x" * 60_000 + b"\r\n"), "unreachable"),
    "zip bomb": (reply(gzip.compress(b"0" * 50_000_000), more="Content-Encoding: gzip\r\n"), "encoded"),
    "strange coding": (reply(b"{}", more="Content-Encoding: br, gzip\r\n"), "encoded"),
    "to http": (redirect("http://files.example.com/"), "not_https"),
    "to a file": (redirect("file:///etc/passwd"), "not_https"),
    "to nowhere": (redirect("https://"), "redirects"),
    "to nonsense": (redirect("https://[x"), "unreachable"),
    "to no port": (redirect("https://files.example.com:99999/"), "not_https"),
    "to port 0": (redirect("https://files.example.com:0/"), "not_https"),
    "to a stranger's name": (redirect("https://user:secret@files.example.com/"), "not_https"),
    "to blanks": (redirect("https://files.example.com/a b"), "not_https"),
    "to letters": (redirect("https://files.example.com/\xff"), "not_https"),
    "to backslashes": (redirect("https://files.example.com\\@127.0.0.1/"), "not_https"),
    "to loopback": (redirect("https://127.0.0.1/"), "private_address"),
    "to loopback, IPv6": (redirect("https://[::1]/"), "private_address"),
    "to loopback as a number": (redirect("https://2130706433/"), "private_address"),
    "to the metadata of a cloud": (redirect("https://169.254.169.254/latest/meta-data"), "private_address"),
    "to a private name": (redirect("https://localhost/"), "private_address"),
    "in a loop": (redirect(URL), "redirects"),
    "without a target": (reply(b"", status="302 Found"), "status"),
    "silent": (raw(b"", stall=True), "too_slow"),
    "silent after a header": (raw(OK, stall=True), "too_slow"),
    "silent in the body": (raw(OK + b"Content-Length: 9\r\n\r\n{", stall=True), "too_slow"),
    "drips headers": (dripping(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), "too_slow"),
    "drips": (dripping(OK + b"Content-Length: 1000000\r\n\r\n", b"x"), "too_slow"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_C1_misbehaving_origin_is_refused_for_its_reason(
    case: str, public: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    public.answers[FILE], reason = ANSWERS[case]
    monkeypatch.setattr("mcp_chassis.fetching._SECONDS", 1.0 if reason == "too_slow" else 20.0)

    found, text = await refused()

    assert found == reason, text
    assert "secret" not in text


async def test_C1_reading_ends_at_the_bound(public: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_chassis.fetching.LARGEST", 100_000)
    public.answers[FILE] = flooding

    found = await fetch()

    assert (len(found.body), found.whole) == (100_000, False)


async def test_C1_redirect_to_another_public_host_is_followed_and_judged_anew(
    public: Origin, internet: Internet
) -> None:
    internet.place("mirror.example.com", public.port, ANOTHER)
    public.answers[FILE] = redirect("https://mirror.example.com/x", "307 Temporary Redirect")
    public.put("/x", b"[]")

    assert (await fetch()).body == b"[]"
    assert internet.dialled == [PUBLIC, ANOTHER]
    assert "\r\nHost: mirror.example.com\r\n" in public.heads[1]


@pytest.mark.parametrize("listed", [(), ("files.internal",)], ids=["unlisted", "listed"])
async def test_C1_redirect_from_outside_never_leads_inside(
    listed: tuple[str, ...], public: Origin, internet: Internet
) -> None:
    internet.place("files.internal", public.port, "10.0.0.7")
    public.answers[FILE] = redirect("https://files.internal/x")
    public.put("/x", b"[]")

    assert (await refused(URL, *listed))[0] == "private_address"
    assert internet.dialled == [PUBLIC]


async def test_C1_chain_of_redirects_that_leaves_the_listed_hosts_does_not_come_back(
    public: Origin, internet: Internet
) -> None:
    internet.place("files.internal", public.port, "10.0.0.7")
    public.answers[FILE] = redirect("https://mirror.example.com/x")
    internet.place("mirror.example.com", public.port, ANOTHER)
    public.answers["/x"] = redirect("https://files.internal/y")
    public.put("/y", b"[]")
    listed_first = urlsplit(URL).hostname

    assert (await refused(URL, str(listed_first), "files.internal"))[0] == "private_address"
    assert internet.dialled == [PUBLIC, ANOTHER]


# --- addresses --------------------------------------------------------------------------------------------------------
INSIDE = (
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:10.0.0.1", "::ffff:100.64.0.1", "::127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "64:ff9b:1::1"),
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
)


@pytest.mark.parametrize("address", INSIDE)
def test_C1_address_of_a_network_of_our_own_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC6, f"::ffff:{PUBLIC}", "64:ff9b::5db8:d822"])
def test_C1_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("inside", ["10.0.0.7", "::1", "169.254.169.254"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_C1_host_with_one_address_inside_is_refused(
    inside: str, first: bool, public: Origin, internet: Internet
) -> None:
    internet.names["files.example.com"] = [[inside, PUBLIC] if first else [PUBLIC, inside]]

    reason, text = await refused()

    assert reason == "private_address"
    assert "MCP_RESOURCE_HOSTS" in text
    assert internet.dialled == []


async def test_C1_name_that_changes_after_the_judgement_changes_nothing(public: Origin, internet: Internet) -> None:
    internet.names["files.example.com"] = [[PUBLIC], ["127.0.0.1"]]
    public.put(FILE, b"{}")

    assert (await fetch()).body == b"{}"
    assert (internet.looked_up, internet.dialled) == (["files.example.com"], [PUBLIC])


async def test_C1_next_address_is_tried_when_one_is_dead(public: Origin, internet: Internet) -> None:
    internet.place("files.example.com", public.port, PUBLIC6, ANOTHER, PUBLIC)
    internet.ports |= {PUBLIC6: REFUSED, ANOTHER: REFUSED}
    public.put(FILE, b"{}")

    assert (await fetch()).body == b"{}"
    assert internet.dialled == [PUBLIC6, ANOTHER, PUBLIC]


async def test_C1_ipv6_is_spoken(public: Origin, internet: Internet) -> None:
    internet.place("files.example.com", public.port, PUBLIC6)
    public.put(FILE, b"{}")

    assert (await fetch()).body == b"{}"
    assert (await fetch(public.url(FILE, "[::1]"), f"::1:{public.port}", "::1")).body == b"{}"


async def test_C1_dead_host_and_unknown_name_are_told_apart(internet: Internet) -> None:
    internet.place("files.example.com", REFUSED, PUBLIC, ANOTHER)

    assert (await refused())[0] == "unreachable"
    assert (await refused("https://nowhere.invalid/x"))[0] == "unknown_host"
    assert (await refused(f"https://{'a' * 70}.example.com/x"))[0] == "unknown_host"


# --- who it is --------------------------------------------------------------------------------------------------------
async def test_C1_certificate_must_be_for_the_host_and_of_a_known_authority(
    public: Origin, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.place("other.example.com", public.port, PUBLIC)
    public.put(FILE, b"{}")

    reason, text = await refused("https://other.example.com/x")
    assert (reason, "other.example.com" in text) == ("certificate", True)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert (await refused())[0] == "certificate"
    assert public.heads == []


async def test_C1_server_without_tls_is_refused(internet: Internet) -> None:
    plain = Origin(None)
    internet.place("files.example.com", plain.port, PUBLIC)
    with plain.listening():
        assert (await refused())[0] == "unreachable"


# --- hosts of our own -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("listed", ["localhost", "LOCALHOST", "localhost:{port}"])
async def test_C1_listed_host_of_our_own_network_may_be_asked(listed: str, origin: Origin) -> None:
    origin.put(FILE, b"{}")

    assert (await fetch(origin.url(FILE), listed.format(port=origin.port))).body == b"{}"
    assert f"\r\nHost: localhost:{origin.port}\r\n" in origin.heads[0]


@pytest.mark.parametrize("listed", ["localhost:1", "ocalhost", "example.com"])
async def test_C1_other_host_or_port_is_not_listed(listed: str, origin: Origin) -> None:
    assert (await refused(origin.url(FILE), listed))[0] == "private_address"
    assert origin.heads == []


async def test_C1_listed_host_needs_a_certificate_too(authority: Authority) -> None:
    other = Origin(authority.server(NAMES[:1]))
    with other.listening():
        assert (await refused(other.url(FILE), "localhost"))[0] == "certificate"
