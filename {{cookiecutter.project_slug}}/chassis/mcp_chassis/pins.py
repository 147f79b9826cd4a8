"""What may be pinned, and the lock that says what is (C2).

`resources.lock.json` is part of the artefact and never fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mcp_chassis.fetching import LARGEST, Fetched, checked, shown

LOCK: Final = Path("resources.lock.json")
_FORMAT: Final = 1
_LARGEST_LOCK: Final = 1_048_576

_NEWEST: Final = re.compile(r"(?<![a-z0-9])(latest|nightly)(?![a-z0-9])|\d-(snapshot)(?![a-z0-9])")
_CHANNEL: Final = r"main|master|head|trunk|develop|dev|stable|edge|current|tip|canary"
_MOVING: Final = re.compile(rf"[/=@:]({_CHANNEL})(?=[/&@:]|\.(?:zip|tar|tgz)|$)")
_VERSION: Final = re.compile(r"\d\.\d")
"""What makes a segment like `main` the name of a folder."""
_BRANCH: Final = re.compile(rf"[/=]refs/heads/|/(?:raw|src|archive)/branch/|/(?:raw|blob|tree)/({_CHANNEL})/")
_HASH: Final = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{40}|[0-9a-f]{64})(?![0-9a-f])")
_REFERENCE: Final = re.compile(
    r"(?:www\.)?github\.com/[^/]+/[^/]+/(?:blob|raw|tree|archive|zipball|tarball)/"
    r"|(?:raw\.githubusercontent\.com|media\.githubusercontent\.com/media)/[^/]+/[^/]+/"
    r"|codeload\.github\.com/[^/]+/[^/]+/[^/]+/"
    r"|gist\.github(?:usercontent)?\.com/[^/]+/[^/]+/raw/?"
    r"|cdn\.jsdelivr\.net/gh/[^/]+/[^/@]+@?"
    r"|bitbucket\.org/[^/]+/[^/]+/raw/"
    r"|huggingface\.co/.+?/(?:resolve|raw|blob)/"
    r"|[^/]+/.+?/-/(?:raw|blob|tree|archive)/"
    r"|[^/]+/[^?]*\?(?:[^&]*&)*(?:ref|at|branch)="
)
"""Where a forge's URL has its commit, tag or branch, which comes next."""
_FIXED: Final = re.compile(r"refs/tags/[^/]+|[^/&]*\d+\.\d[^/&]*")
"""A tag or a version; a hash has been looked for before."""
_PACKAGE: Final = re.compile(r"(?:cdn\.jsdelivr\.net/npm|unpkg\.com)/(?:@[^/@]+/)?[^/@]+(?!@v?\d+\.\d+\.\d)(?=[/@?]|$)")
_IMAGE: Final = re.compile(r"/v2/.+/manifests/(?!sha256:)")


_INSTEAD: Final = "name a commit (40 digits), a version, or refs/tags/…"


class Unpinnable(ValueError):
    """A URL that may mean something else tomorrow, or a lock that is none; the text says why."""


def digest(body: bytes) -> str:
    """Return the SHA-256 of `body`, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


class Pin(BaseModel):
    """One remote resource as it was reviewed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, le=LARGEST)
    media_type: str = Field(max_length=127)
    last_verified: AwareDatetime

    @classmethod
    def of(cls, found: Fetched) -> Pin:
        """Return the pin of what was fetched just now."""
        return cls(sha256=digest(found.body), size=len(found.body), media_type=found.media_type, last_verified=_now())

    def verified_now(self) -> Pin:
        """Return the same pin with this moment as `last_verified`."""
        return self.model_copy(update={"last_verified": _now()})

    def fits(self, body: bytes) -> bool:
        """Tell whether `body` is what was pinned."""
        return len(body) == self.size and digest(body) == self.sha256


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class _Lock(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: int = Field(ge=_FORMAT, le=_FORMAT)
    resources: dict[str, Pin]


def check_reference(url: str) -> None:
    """Raise `Unpinnable` if `url` is not https, or names something that moves, such as a branch (C2)."""
    try:
        parts = checked(url)
    except ValueError as error:
        raise Unpinnable(str(error)) from None
    if parts.fragment:
        raise Unpinnable(f"{shown(url)} must not have a fragment: no server sees it")
    query = f"?{parts.query}" if parts.query else ""
    whole = unquote(f"{parts.hostname}{parts.path}{query}")
    if why := _movement(whole):
        raise Unpinnable(f"{shown(url)} moves: {why}")


def _movement(whole: str) -> str:
    """Return why host, path and query name something that moves; nothing if they do not."""
    path = whole[whole.index("/") :].lower() if "/" in whole else ""
    if _IMAGE.search(path):
        return "a registry's tag can be pushed again; name the digest (sha256:…)"
    reference = _REFERENCE.match(whole)
    # Where a forge's URL has a place for the commit, a hash elsewhere is a name.
    if _HASH.match(whole, reference.end()) if reference else _HASH.search(path):
        return ""
    if newest := _NEWEST.search(path):
        return f"'{newest[1] or newest[2]}' is whatever came last; name a version or a commit"
    if branch := _BRANCH.search(path):
        return f"'{branch[1] or branch[0].strip('/=')}' is a branch; {_INSTEAD}"
    if reference:
        name = re.split("[/&]", whole[reference.end() :])[0]
        return "" if _FIXED.match(whole, reference.end()) else f"'{shown(name)}' may be a branch; {_INSTEAD}"
    if _PACKAGE.match(whole):
        return "without an exact version (@1.2.3) it is whatever came last"
    if (channel := _MOVING.search(path)) and not _VERSION.search(path):
        return f"'{channel[1]}' is a branch or a channel; {_INSTEAD}"
    return ""


def read_lock() -> dict[str, Pin]:
    """Return the pins by their URLs; none if there is no lock.

    Raises:
        Unpinnable: If it is no such file, or an entry is mutable.
    """
    try:
        with LOCK.open("rb") as file:
            text = file.read(_LARGEST_LOCK + 1)
        if len(text) > _LARGEST_LOCK:
            raise Unpinnable(f"{LOCK} is larger than {_LARGEST_LOCK} bytes")
        json.loads(text, object_pairs_hook=_once_each)
        pins = _Lock.model_validate_json(text).resources
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unpinnable(f"{LOCK} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise Unpinnable(f"{LOCK} is no lock of format {_FORMAT}: {_first(error)}") from None
    except Unpinnable:
        raise
    except (ValueError, RecursionError):
        raise Unpinnable(f"{LOCK} is not JSON in UTF-8") from None
    for url in pins:
        check_reference(url)
    return pins


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse a name that is there twice: a reviewer may read the one, a parser the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unpinnable(f"{LOCK} names {shown(twice)} twice")
    return found


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{' '.join(shown(str(part)) for part in found['loc'])}: {found['msg']}"


def write_lock(pins: dict[str, Pin], path: Path = LOCK) -> None:
    """Write the pins, sorted, in one step."""
    text = json.dumps(_Lock(format=_FORMAT, resources=pins).model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    replace(path, text.encode("utf-8"))


def replace(path: Path, body: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old one or the new one; by default, whichever user it runs as."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
