"""Client certificates: checked by the edge, whose word the server takes (A6)."""

from __future__ import annotations

import re
from typing import Final

from mcp_chassis.request import Caller

HEADER: Final = "x-client-subject"
"""Set by the edge after it verified a certificate, and removed from everything that comes from outside.

The server listens on loopback and shares its network namespace with the edge alone, so nobody else can send it.
"""

_LONGEST: Final = 512
_ATTRIBUTE: Final = re.compile(
    r" *([A-Za-z][A-Za-z0-9-]{0,63}|[0-9.]{1,64}) *= *"
    r"((?:\\(?:[0-9A-Fa-f]{2}|[^0-9A-Za-z])|[^,+\\\";<> ]| +(?![ ,+]|$))*) *"
)
"""A name and its value up to the next `,` or `+`; spaces around the value are not part of it unless escaped."""
_ESCAPED: Final = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)")


class InvalidSubject(Exception):
    """The header does not hold a distinguished name with the attributes that name a caller."""


def caller_of(subject: str, *, tenant_attribute: str | None, scopes: frozenset[str]) -> Caller:
    """Return the caller that a verified subject names.

    Args:
        subject: Distinguished name as RFC 4514 writes it, such as `CN=agent-7,O=acme`.
        tenant_attribute: The attribute that names the tenant; None puts everybody into one tenant.
        scopes: What callers with a certificate may do; a certificate names nobody's scopes.

    Raises:
        InvalidSubject: If `CN` or the tenant is missing, empty or there twice.
    """
    attributes = _attributes(subject)
    name = _single(attributes, "CN")
    tenant = "default" if tenant_attribute is None else _single(attributes, tenant_attribute.upper())
    return Caller(name, tenant, scopes, "certificate")


def _attributes(subject: str) -> list[tuple[str, str]]:
    if len(subject) > _LONGEST or not subject.isprintable():
        raise InvalidSubject
    found = []
    position = 0
    while position <= len(subject):
        part = _ATTRIBUTE.match(subject, position)
        if part is None or subject[part.end() : part.end() + 1] not in ("", ",", "+"):
            raise InvalidSubject
        found.append((part.group(1).upper(), part.group(2)))
        position = part.end() + 1
    return found


def _unescaped(value: str) -> str:
    """Return the text that was written with `\\,` or with `\\C3\\BC`, the bytes of UTF-8 (RFC 4514, 2.4)."""
    if value.startswith("#"):
        raise InvalidSubject  # the bytes of a value that is no text

    def plain(escape: re.Match[str]) -> str:
        pairs = escape.group(1)
        return escape.group(2) if pairs is None else bytes.fromhex(pairs.replace("\\", "")).decode("utf-8")

    try:
        text = _ESCAPED.sub(plain, value)
    except UnicodeDecodeError:
        raise InvalidSubject from None
    if not text.isprintable():
        raise InvalidSubject
    return text


def _single(attributes: list[tuple[str, str]], wanted: str) -> str:
    values = [value for name, value in attributes if name == wanted]
    if len(values) != 1 or not values[0]:
        raise InvalidSubject
    return _unescaped(values[0])
