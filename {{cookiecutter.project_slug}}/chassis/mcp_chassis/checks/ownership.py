"""Whose each file is, and what was done to the template's: `check ownership`, `ops owned`, `ops detach` (M4).

The manifest, written at render time, names what is the template's with its digest. What a command writes is derived.
All else is yours: seeded once, or your own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

import anyio
import typer
from pydantic_core import to_json

from mcp_chassis.checks import Finding, Nothing, Profile, Unseen, examine, judged
from mcp_chassis.checks.commands import Json, finish, leave, need_root

MANIFEST: Final = "chassis/owned.sha256"
ANSWERS: Final = ".copier-answers.yml"
_DERIVED: Final = frozenset({".env.example", "uv.lock", "schema/tools.json", "schema/tools.sha256"})
_OPEN: Final = frozenset({".", "deploy", "deploy/secrets", ".github/workflows", ".gitlab"})
"""Folders with files of the template's in which files of yours are welcome."""
_HERE: Final = "chassis/mcp_chassis/checks/ownership.py"
_PASSED_BY: Final = re.compile(r"\.git|\.venv|__pycache__|\..+_cache|.+\.egg-info")
_PASSED_BY_OUTSIDE: Final = re.compile(rf"{_PASSED_BY.pattern}|node_modules|dist")
"""What is passed by outside chassis/, where these could be imported."""
_LITTER: Final = re.compile(r"\.DS_Store|.+\.(orig|swp)|.+~")
NO_RECORD: Final = "# no record: no update can come"
_DETACHED: Final = re.compile(r"^detached:(?: \[\])?\n((?:- .+\n)*)", flags=re.MULTILINE)
_LINE: Final = re.compile(r"(?:(?P<digest>[0-9a-f]{64})|# detached)  (?P<path>\S+)")

INSTEAD: Final = {
    "": "report what you need as a defect of the template",
    ".dockerignore": "what the image needs lies in src/; system packages stand in deploy/apt-packages.txt",
    ".github/workflows/": "a workflow of your own beside it; runner, package_index and more by the answer `team`",
    ".gitlab/": "a job in .gitlab-ci.yml, where one of the template's is changed by its name and the keys that differ",
    "chassis/": "a setting, or code in src/; where neither reaches, report it as a defect of the template",
    "chassis/gate/": "tests of your own go into tests/",
    "chassis/pyproject.toml": "what your tools need goes into pyproject.toml; uv locks both together",
    "deploy/Dockerfile": "deploy/apt-packages.txt, deploy/base.Dockerfile, or image_base in the answer `team`",
    "deploy/caddy/": "a drop-in in deploy/caddy/conf.d/; docs/edges.md of the template lists the kinds",
    "deploy/compose.yaml": "deploy/compose.override.yaml, which compose reads by itself",
    "deploy/kubernetes/": "a patch or a component in deploy/kubernetes/overlays/production/",
    "deploy/monitoring/": "rules and dashboards of your own in a folder of your own, loaded beside these",
    "deploy/nginx/": "a drop-in in deploy/nginx/conf.d/; docs/edges.md of the template lists the kinds",
    "deploy/postgres.sql": "a migration of your own in migrations/",
}
"""What to use in place of an edit, by the beginning of a path; the longest counts."""

Owner = Literal["template", "yours", "derived"]
State = Literal["", "changed", "missing", "added", "detached"]
"""`added`: of yours, where only the template's belong. `detached`: the template's once, yours since `ops detach`."""


@dataclass(frozen=True, slots=True)
class File:
    """One file; the names of the fields are what `ops owned --json` prints."""

    path: str
    owner: Owner
    state: State = ""


class Project:
    """The files of a project as they are now.

    Args:
        root: The project's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines = _lines(root / MANIFEST)
        found = [one for one in map(_LINE.fullmatch, self.lines or ()) if one]
        self._digests = {one["path"]: one["digest"] for one in found if one["digest"]}
        self._detached = {one["path"] for one in found} - self._digests.keys()
        self._closed = {str(PurePosixPath(path).parent) for path in self._digests} - _OPEN
        self.files = [self._file(path) for path in sorted({*_walk(root), *self._digests})]

    def of(self, state: State) -> list[str]:
        """Return the paths in that state. Raises `Nothing` where no list is."""
        if self.lines is None:
            raise Nothing(f"there is no {MANIFEST}")
        return [file.path for file in self.files if file.state == state]

    def doubts(self) -> Iterator[str]:
        """Yield why the list cannot be the one that was rendered, and `ops detach` changed."""
        paths = {*self._digests, *self._detached}
        if _HERE not in self._digests:
            yield f"{_HERE} is not in it"
        if f"# paths  {hashlib.sha256(chr(10).join(sorted(paths)).encode()).hexdigest()}" not in (self.lines or ()):
            yield "lines were added or deleted"
        yield from [f"{path} cannot be detached" for path in self._detached if path.startswith("chassis/")]
        found = _DETACHED.search(_read(self.root / ANSWERS))
        listed = {line[1:].strip(" '\"") for line in found[1].splitlines()} if found else set()
        yield from [f"{path} is detached here or in {ANSWERS}, not in both" for path in self._detached ^ listed]

    def _file(self, path: str) -> File:
        if path in self._digests:
            return File(path, "template", _state(self.root / path, self._digests[path]))
        if path in (MANIFEST, ANSWERS):
            return File(path, "template")
        if path in self._detached:
            return File(path, "yours", "detached")
        inside = bool(self._digests) and path.startswith("chassis/")
        added = inside or str(PurePosixPath(path).parent) in self._closed
        return File(path, "derived" if path in _DERIVED else "yours", "added" if added else "")


def _lines(path: Path) -> list[str] | None:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else None


def _read(path: Path) -> str:
    """Return the text of a file, or nothing; its last line has an end."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    return re.sub(r"(?<=[^\n])\Z", "\n", text)


def _walk(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        here = Path(folder).relative_to(root)
        passed = _PASSED_BY if here.parts[:1] == ("chassis",) else _PASSED_BY_OUTSIDE
        names[:] = [name for name in names if not passed.fullmatch(name)]
        links = [name for name in names if Path(folder, name).is_symlink()]
        found = [*links, *(name for name in files if not _LITTER.fullmatch(name))]
        yield from ((here / name).as_posix() for name in found)


def _state(path: Path, digest: str) -> State:
    if not path.is_file():
        return "missing"
    # A checkout may have the ends of lines of its system.
    content = path.read_bytes().replace(b"\r\n", b"\n")
    return "" if hashlib.sha256(content).hexdigest() == digest else "changed"


def instead(path: str) -> str:
    """Return what to use in place of an edit of one of the template's files."""
    return INSTEAD[max((start for start in INSTEAD if path.startswith(start)), key=len)]


ownership: Profile[Project] = Profile()


@ownership.check("M4", f"bring {MANIFEST} back from git; it tells what an update replaces")
def manifest(project: Project) -> Iterator[Finding]:
    """the list of what is the template's is there and can be read"""
    if project.lines is None and not (project.root / ANSWERS).exists():
        raise Nothing("no template: every file is yours")
    if project.lines is None:
        yield Finding("fail", "it is not there", MANIFEST)
    for number, line in enumerate(project.lines or (), start=1):
        if line.strip() and not line.startswith("#") and not _LINE.fullmatch(line):
            yield Finding("fail", "no digest and path", f"{MANIFEST}:{number}")
    yield from [Finding("fail", words, MANIFEST) for words in project.doubts()] if project.lines is not None else ()
    yield Finding("pass", f"{len([file for file in project.files if file.owner == 'template'])} files")


@ownership.check("M4", "bring it back from git")
def unchanged(project: Project) -> Iterator[Finding]:
    """each file of the template's is as it was rendered"""
    for path in project.of("changed"):
        yield Finding("fail", "changed here", path, f"{_back(path)}; instead: {instead(path)}")
    yield Finding("pass", "none was changed")


@ownership.check("M4", "bring it back from git")
def complete(project: Project) -> Iterator[Finding]:
    """no file of the template's is missing"""
    if not (project.root / ANSWERS).is_file() and NO_RECORD not in (project.lines or ()):
        yield Finding("fail", "it is not there: no update can come", ANSWERS)
    for path in project.of("missing"):
        yield Finding("fail", "deleted here", path, _back(path))
    yield Finding("pass", "none is missing")


@ownership.check("M4", "move it")
def nothing_added(project: Project) -> Iterator[Finding]:
    """no other file lies in a folder of the template's, where an update may bring one of the same name"""
    for path in project.of("added"):
        yield Finding("fail", "not the template's", path, f"move it; instead: {instead(path)}")
    yield Finding("pass", "none was added")


def _back(path: str) -> str:
    """Say how the file becomes good again: by an older state, or by another owner."""
    keep = "" if path.startswith("chassis/") else f", or make it yours: ops detach {path}"
    return f"bring it back from git{keep}"


@ownership.check(
    "G6",
    "UPGRADING 0.6.0: The image has a file of its own in the overlay, because the pipeline writes it. A project that is"
    " older than this makes deploy/kubernetes/overlays/production/image/kustomization.yaml",
)
def pipeline_image(project: Project) -> Iterator[Finding]:
    """the components of the overlay that the pipeline deploys end with image, where it writes the release"""
    if not any((project.root / name).exists() for name in (".github/workflows/deploy.yaml", ".gitlab/chassis.yml")):
        raise Nothing("no pipeline deploys")
    try:
        from mcp_chassis.checks.sources import blocks, read
    except ImportError as error:
        raise Unseen(f"{error.name} is not installed", "uv add --dev 'mcp-chassis[checks]'") from None
    overlay = project.root / "deploy/kubernetes/overlays/production"
    problems: list[Finding] = []
    components = [
        one for block in blocks(read(overlay / "kustomization.yaml", problems)) for one in block.texts("components")
    ]
    good = bool(components) and PurePosixPath(components[-1]) == PurePosixPath("image")
    yield from problems
    yield judged(good, str(overlay / "kustomization.yaml"), f"components: {', '.join(components) or 'none'}")
    there = (overlay / "image/kustomization.yaml").is_file()
    yield judged(there, str(overlay / "image/kustomization.yaml"), "it is there" if there else "it is not there")


class NotDetachable(Exception):
    """A file cannot become yours on its own; the text says why and what would help."""


def detach(project: Project, paths: Iterable[str]) -> None:
    """Make files of the template's yours: an update finds them in the answers and leaves them alone.

    Raises:
        NotDetachable: If one is not the template's, or nothing without its neighbours; then nothing is written.
    """
    named = list(dict.fromkeys(PurePosixPath(path).as_posix() for path in paths))
    listed = {file.path for file in project.files if file.owner == "template"}
    for path in named:
        if f"{path}/".startswith("chassis/"):
            raise NotDetachable(f"{path}: chassis/ is one piece; docs/detach.md tells how to leave as a whole")
        if (project.root / path).is_dir():
            raise NotDetachable(f"{path} is a folder: name its files one by one; `ops owned` lists them")
        if path not in listed - {ANSWERS}:
            raise NotDetachable(f"{path} is not the template's; `ops owned` lists what is")
    answers = project.root / ANSWERS
    text = _read(answers)
    entries = "".join(f"- {path}\n" for path in named)
    text, count = re.subn(r"^detached:(?: \[\])?\n", f"detached:\n{entries}", text, flags=re.MULTILINE)
    if not text or (not count and "\ndetached:" in text):
        raise NotDetachable(f"{ANSWERS} is not there, or was edited by hand; bring it back from git")
    answers.write_text(text if count else f"{text}detached:\n{entries}", "utf-8", "surrogateescape", "\n")
    lines = (f"# detached  {line[66:]}" if line[66:] in named else line for line in project.lines or ())
    (project.root / MANIFEST).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def add_ownership(app: typer.Typer) -> None:
    """Add `ownership` to the group `check`."""

    @app.command("ownership")
    def ownership_command(as_json: Json = False) -> None:
        """Name each file of the template's that was changed or is missing here, and what to use instead (M4).

        Also what lies in a folder of the template's, and what a file of yours lacks, in the words of UPGRADING.
        """
        finish(anyio.run(examine, ownership, _project()), as_json=as_json)


def _project() -> Project:
    need_root()
    return Project(Path())


def add_owned(app: typer.Typer) -> None:
    """Add `owned` and `detach` to the group `ops`."""

    @app.command("owned")
    def owned_command(as_json: Json = False) -> None:
        """List every file with its owner: the template, you, or the command that derives it."""
        files = _project().files
        if as_json:
            print(to_json([asdict(file) for file in files], indent=2).decode())
            return
        for file in files:
            print(f"{file.owner:8}  {file.state:8}  {file.path}")
        counts = Counter(file.owner for file in files)
        print("\n" + ", ".join(f"{count} {owner}" for owner, count in counts.items()))

    @app.command("detach")
    def detach_command(paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="From the root.")]) -> None:
        """Make files of the template's yours: updates leave them alone from now on, mended or not."""
        try:
            detach(_project(), paths)
        except NotDetachable as error:
            leave(str(error))
        print(f"yours now: {', '.join(paths)}; commit {ANSWERS} and {MANIFEST}")
