"""`MCP_AUTH` made real: the ways in that the settings name, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import httpx2

from mcp_chassis.auth import certificates
from mcp_chassis.auth.authentication import Authentication
from mcp_chassis.auth.challenge import METADATA_PATH, Challenge
from mcp_chassis.auth.issuer import Issuer
from mcp_chassis.auth.keyring import FileKeyring, Keyring, StoreKeyring, UnreadableKeyring
from mcp_chassis.auth.tokens import TokenRules, Tokens
from mcp_chassis.environment import ConfigurationError, Problem
from mcp_chassis.request import Caller
from mcp_chassis.settings import Settings
from mcp_chassis.state.store import Store

_ISSUER_SECONDS: Final = 3.0


def resource_url(settings: Settings) -> str:
    """Return the server as OAuth clients address it (RFC 8707)."""
    return f"{settings.public_url}/mcp"


def challenge_of(settings: Settings, realm: str) -> Challenge:
    """Return how this server refuses; with an issuer, it tells where to find it."""
    return Challenge(realm, f"{settings.public_url}{METADATA_PATH}" if "jwt" in settings.auth else None)


def authentication_of(
    settings: Settings, *, challenge: Challenge, store: Store, client: httpx2.AsyncClient
) -> Authentication:
    """Return the authentication that `MCP_AUTH` names; `none` is not one.

    Raises:
        ConfigurationError: If the keys file cannot be read.
    """
    return Authentication(
        challenge=challenge,
        keyring=_keyring(settings, store) if "keys" in settings.auth else None,
        tokens=_tokens(settings, client) if "jwt" in settings.auth else None,
        certificate=_certificate(settings) if "mtls" in settings.auth else None,
    )


def issuer_client() -> httpx2.AsyncClient:
    """Return the HTTP client that fetches an issuer's keys: short, without redirects."""
    return httpx2.AsyncClient(timeout=_ISSUER_SECONDS, follow_redirects=False)


def _keyring(settings: Settings, store: Store) -> Keyring:
    if settings.api_keys_file is None:
        return StoreKeyring(store)
    keyring = FileKeyring(settings.api_keys_file)
    try:
        keyring.records()
    except UnreadableKeyring as error:
        rule = f"must be a keys file ({error}): `ops keys create --caller NAME` writes one"
        raise ConfigurationError([Problem("MCP_API_KEYS_FILE", str(settings.api_keys_file), rule)]) from None
    return keyring


def _tokens(settings: Settings, client: httpx2.AsyncClient) -> Tokens:
    url = settings.jwt_issuer or ""
    issuer = Issuer(url, keys_url=settings.jwt_keys_url, floor=settings.jwt_refresh_floor, client=client)
    rules = TokenRules(
        issuer=url,
        audiences=settings.jwt_audiences or (resource_url(settings),),
        algorithms=settings.jwt_algorithms,
        leeway=settings.jwt_leeway,
        not_before_required=settings.jwt_not_before == "required",
        tenant_claim=settings.jwt_tenant_claim,
    )
    return Tokens(issuer, rules)


def _certificate(settings: Settings) -> Callable[[str], Caller]:
    return partial(
        certificates.caller_of,
        tenant_attribute=settings.mtls_tenant_attribute,
        scopes=frozenset(settings.mtls_scopes),
    )
