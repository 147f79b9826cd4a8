"""Proxies of the environment are respected, and no way around the judgement (C1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mcp_chassis.fetching import Fetcher, FetchFailed
from tests.resources.internet import PUBLIC, Internet
from tests.resources.origin import Origin, Proxy, redirect

pytestmark = pytest.mark.anyio

FILE = "/v1.2/definitions.json"
URL = f"https://files.example.com{FILE}"


@pytest.fixture
def proxy(origin: Origin) -> Iterator[Proxy]:
    """Run a proxy in front of the origin."""
    origin.put(FILE, b"{}")
    found = Proxy(origin.port)
    with found.listening():
        yield found


async def fetch(url: str = URL, *internal: str) -> bytes:
    """Return what a server gets."""
    return (await Fetcher(internal_hosts=internal).fetch(url)).body


async def refused(url: str = URL) -> str:
    """Return why nothing was fetched."""
    with pytest.raises(FetchFailed) as found:
        await fetch(url)
    assert "secret" not in str(found.value)
    return found.value.reason


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://user:secret@", ""])
async def test_C1_proxy_is_asked_for_the_name_and_looks_it_up_itself(
    variable: str, scheme: str, proxy: Proxy, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")

    assert await fetch() == b"{}"
    assert proxy.asked == ["files.example.com:443"]
    assert "files.example.com" not in internet.looked_up
    assert ("proxy-authorization" in proxy.heads[0].lower()) == bool(scheme)


@pytest.mark.parametrize(
    "exception", ["files.example.com", ".example.com", "example.com", "files.example.com:443", "*"]
)
async def test_C1_exception_goes_to_the_judged_address(
    exception: str, proxy: Proxy, public: Origin, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exception if exception == "*" else f"localhost,{exception}")

    assert await fetch() == b"{}"
    assert (proxy.asked, internet.dialled) == ([], [PUBLIC])


@pytest.mark.parametrize(
    "spelling", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "127.1", "localhost", "a.localhost"]
)
async def test_C1_proxy_is_not_asked_for_what_is_inside(
    spelling: str, proxy: Proxy, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.names["a.localhost"] = [["127.0.0.1"]]
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)

    assert await refused(f"https://{spelling}/v1.2/x") == "private_address"
    assert proxy.asked == []


async def test_C1_redirect_behind_a_proxy_is_judged(
    proxy: Proxy, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    origin.answers[FILE] = redirect("https://169.254.169.254/")

    assert await refused() == "private_address"
    assert proxy.asked == ["files.example.com:443"]


async def test_C1_certificate_behind_a_proxy_must_be_the_hosts(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)

    assert await refused("https://other.example.com/v1.2/x") == "certificate"


async def test_C1_proxy_that_refuses_or_is_none_is_told(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Proxy(origin.port, refusing=True)
    with refusing.listening():
        monkeypatch.setenv("HTTPS_PROXY", refusing.url)
        assert await refused() == "unreachable"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:secret@127.0.0.1:1")
    assert await refused() == "proxy"
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@[x")
    assert await refused() == "unreachable"
