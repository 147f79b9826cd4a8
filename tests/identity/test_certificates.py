"""A certificate that the edge verified names its caller; nothing else can (A6, the chassis's half)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from mcp_chassis.auth.assertions import InvalidSubject, caller_of
from mcp_chassis.request import Caller
from tests.identity.issuer import Issuer
from tests.identity.serving import bearer, serving, settings
from tests.identity.wire import ERAS, Era
from tests.identity.world import a_world
from tests.support.inside import Log

SCOPES = frozenset({"notes:read"})

NAMED = {
    "CN=agent-7,O=acme": ("agent-7", "acme"),
    "O=acme,CN=agent-7": ("agent-7", "acme"),
    "CN=agent-7, O=acme": ("agent-7", "acme"),
    "cn=agent-7,o=acme": ("agent-7", "acme"),
    "CN = agent-7 , O = acme": ("agent-7", "acme"),
    "CN=agent-7+O=acme": ("agent-7", "acme"),
    "O=acme+OU=jobs+CN=agent-7,C=DE": ("agent-7", "acme"),
    "OU=a,OU=b,CN=agent-7,O=acme": ("agent-7", "acme"),
    "DC=example,DC=com,CN=agent-7,O=acme": ("agent-7", "acme"),
    "1.2.840.113549.1.9.1=#1603612e62,CN=agent-7,O=acme": ("agent-7", "acme"),
    "CN=Agent Seven,O=Acme GmbH": ("Agent Seven", "Acme GmbH"),
    r"CN=Seven\, Agent,O=Acme\, Inc.": ("Seven, Agent", "Acme, Inc."),
    r"CN=a\+O\=globex,O=acme": ("a+O=globex", "acme"),
    r"CN=a\"b\\c\;d\<e\>f,O=acme": (r'a"b\c;d<e>f', "acme"),
    r"CN=\#1,O=acme": ("#1", "acme"),
    r"CN=\ a\ ,O=acme": (" a ", "acme"),
    "CN=a=b,O=acme": ("a=b", "acme"),
    r"CN=J\C3\BCrgen,O=Z\c3\bcrich": ("Jürgen", "Zürich"),
    "CN=Jürgen,O=Zürich": ("Jürgen", "Zürich"),
    r"CN=a\2Cb,O=acme": ("a,b", "acme"),
    r"CN=\E6\9D\8E,O=acme": ("李", "acme"),
    "CN=spiffe://acme/ns/jobs/sa/agent-7,O=acme": ("spiffe://acme/ns/jobs/sa/agent-7", "acme"),
    "CN=agent-7,O=acme,serialNumber=1": ("agent-7", "acme"),
}

NAMELESS = [
    "",
    " ",
    "agent-7",
    "CN",
    "CN=",
    "CN= ,O=acme",
    "O=acme",
    "CN=agent-7",
    "CN=agent-7,O=",
    "CN=agent-7,CN=root,O=acme",
    "CN=agent-7+CN=root,O=acme",
    "CN=agent-7,cn=agent-7,O=acme",
    "CN=agent-7,O=acme,O=globex",
    "CN=agent-7,O=acme,",
    ",CN=agent-7,O=acme",
    "CN=agent-7,,O=acme",
    "CN=agent-7;O=acme",
    "/CN=agent-7/O=acme",
    'CN="agent-7,O=globex",O=acme',
    'CN="agent-7",O=acme',
    "CN=<agent-7>,O=acme",
    "CN=agent-7,O=acme\\",
    r"CN=agent\7,O=acme",
    r"CN=agent\zz,O=acme",
    r"CN=\FF\FE,O=acme",
    r"CN=agent-7\00,O=acme",
    r"CN=agent-7\0Aroot,O=acme",
    "CN=agent-7\nO=acme",
    "CN=agent-7\u202e,O=acme",
    r"CN=agent-7\E2\80\AE,O=acme",
    "CN=#0c056167656e74,O=acme",
    "CN=agent-7,O=acme," + "OU=x," * 200 + "C=DE",
    "XCN=agent-7,O=acme",
    "CN.1=agent-7,O=acme",
]


@pytest.mark.parametrize("subject", NAMED)
def test_A6_subject_names_its_caller(subject: str) -> None:
    caller = caller_of(subject, tenant_attribute="o", scopes=SCOPES)

    assert caller == Caller(*NAMED[subject], SCOPES)


@pytest.mark.parametrize("subject", NAMELESS)
def test_A6_subject_that_could_mean_two_names_nobody(subject: str) -> None:
    with pytest.raises(InvalidSubject):
        caller_of(subject, tenant_attribute="O", scopes=SCOPES)


def test_A6_without_an_attribute_everybody_is_in_one_tenant() -> None:
    assert caller_of("CN=ann,O=acme,O=globex", tenant_attribute=None, scopes=SCOPES).tenant == "default"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Co", "Cn", "Zl", "Zp"]), min_size=1))
def test_A6_two_names_never_become_one_caller(name: str) -> None:
    # Written by a library that has no part in ours.
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]).rfc4514_string()
    except ValueError:
        return
    try:
        found = caller_of(subject, tenant_attribute=None, scopes=SCOPES).id
    except InvalidSubject:
        return
    assert found == name


@given(st.text())
def test_A6_any_text_names_somebody_or_is_invalid(text: str) -> None:
    try:
        caller = caller_of(text, tenant_attribute=None, scopes=SCOPES)
    except InvalidSubject:
        return
    assert caller.id.isprintable()


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_A6_caller_with_a_certificate_has_its_tenant_and_the_scopes_of_certificates(
    era: Era, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"mtls_tenant_attribute": "O", "mtls_scopes": ("notes:read",)}
    async with a_world(issuer, tmp_path, monkeypatch, **given) as world:
        peer = await world.served.opened(era, [("X-Client-Subject", "CN=Zo\\C3\\AB,O=acme")])

        answer = await peer.call("whoami")
        assert answer.result()["structuredContent"] == {"id": "Zoë", "tenant": "acme", "scopes": ["notes:read"]}

        await world.revocations.revoke("subject", "Zoë", 60)
        assert (await peer.call("whoami")).reason() == "revoked"


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("auth", [("keys",), ("jwt",), ("keys", "jwt")])
async def test_A6_header_proves_nothing_where_certificates_are_no_way_in(
    auth: tuple[str, ...], era: Era, issuer: Issuer, tmp_path: Path, log: Log
) -> None:
    (tmp_path / "keys.json").write_text("{}", encoding="utf-8")
    given = settings(auth=auth, api_keys_file=tmp_path / "keys.json", jwt_issuer=issuer.url)
    async with serving(given) as served:
        for headers in ([("X-Client-Subject", "CN=root")], [("X-Client-Subject", "CN=root")] * 2):
            refused = await served.peer(era, headers).introduce()

            assert (refused.status, refused.reason()) == (401, "no_credential")
        if "jwt" in auth:
            both = [bearer(issuer.token()), ("X-Client-Subject", "CN=root")]
            answer = await served.peer("stateless", both).call("whoami")
            assert answer.result()["structuredContent"]["id"] == "ann"
    assert "root" not in log.text()
