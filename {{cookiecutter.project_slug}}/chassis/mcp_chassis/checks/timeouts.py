"""`check timeouts`: every time limit in a project's files against its neighbours (T8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from mcp_chassis.checks import Check, Finding, Nothing, Profile, judged
from mcp_chassis.checks.cluster import Cluster, Limits, Variables, is_ours
from mcp_chassis.checks.kustomize import LAST_RESORT, NAMES, Builder, chain, long_enough
from mcp_chassis.checks.sources import Block, Directive, Unparsable, blocks, caddy, nginx, read, seconds

_TO_SERVER: Final = 5.0
"""Seconds after which uvicorn closes an idle connection; the edge must be first, or a call meets a closed one."""
_OVERRIDES: Final = ("compose", "docker-compose")
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
_NGINX: Final = {"proxy_read_timeout": "60s", "keepalive_timeout": "75s"}
"""What nginx does by itself where a limit is not set."""


class Project:
    """A project's files, each read once, and what its server says of itself.

    Args:
        root: The folder that holds `deploy/`.
        variables: What the server is started with here.
        declared: Gives the longest call of each tool that declares one, in seconds.
    """

    def __init__(self, root: Path, variables: dict[str, str], declared: Callable[[], Mapping[str, float]]) -> None:
        self.root, self.variables, self.declared = root, variables, declared
        self.limits = Limits.of(variables)

    @cached_property
    def nginx(self) -> tuple[Directive, ...]:
        """nginx's configuration."""
        return nginx(self.file("deploy/nginx/nginx.conf"))

    @cached_property
    def caddy(self) -> tuple[Directive, ...]:
        """Caddy's configuration."""
        return caddy(self.file("deploy/caddy/Caddyfile"))

    @cached_property
    def clusters(self) -> list[Cluster]:
        """Each kustomization as it is built, and each file that none of them takes."""
        folder = self.root / "deploy/kubernetes"
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".yaml", ".yml")]
        if not files:
            raise Nothing("no deploy/kubernetes")
        builder = Builder()
        kustomizations = [path for path in files if path.name in NAMES]
        streams = [builder.build(path.parent, []) for path in kustomizations]
        loose = [path for path in files if path.resolve() not in builder.read]
        streams += [blocks(builder.documents(path)) for path in loose]
        found = [Cluster(objects, builder.problems) for objects in streams]
        for cluster, path in zip(found, kustomizations, strict=False):
            cluster.component = "Component" in {one.text("kind") for one in blocks(builder.documents(path))}
        return found

    @cached_property
    def call(self) -> float:
        """The longest call that any server of the project answers, in seconds: here, in compose, in a cluster."""
        found = [self.limits.call, Limits.of({}).call]
        with suppress(Nothing):
            found += [limits.call for _, _, limits in _composed(self)]
        with suppress(Nothing):
            found += [server.limits.call for cluster in self.clusters for server in cluster.servers]
        return max(found)

    @cached_property
    def services(self) -> tuple[dict[str, list[Block]], list[Finding]]:
        """The services of the compose files, each with its parts in the order in which they count, and problems."""
        names = ("compose.yaml", "deploy/compose.yaml")
        file = next((self.root / name for name in names if (self.root / name).is_file()), None)
        if file is None:
            raise Nothing("no compose.yaml")
        problems: list[Finding] = []
        services: dict[str, list[Block]] = {}
        # Of several overrides compose reads the first.
        overrides = [file.with_name(f"{name}.override.{end}") for name in _OVERRIDES for end in ("yml", "yaml")]
        for path in [file, *[path for path in overrides if path.is_file()][:1]]:
            for document in blocks(read(path, problems)):
                if "include" in document:
                    problems.append(Finding("unseen", "include is not followed", document.at("include")))
                for name in document.block("services"):
                    services.setdefault(name, []).append(document.block("services", name))
        return services, problems

    def file(self, name: str) -> Path:
        """Return the path of a file that is there."""
        if not (self.root / name).is_file():
            raise Nothing(f"no {name}")
        return self.root / name


timeouts: Profile[Project] = Profile()


@timeouts.check("T8", "mend the file; what it holds cannot be compared")
def readable(project: Project) -> Iterator[Finding]:
    """every file can be read"""
    for name in ("nginx", "caddy", "services", "clusters"):
        try:
            getattr(project, name)
        except Nothing as nothing:
            yield Finding("skip", str(nothing))
        except Unparsable as error:
            yield Finding("fail", *error.args)
        else:
            yield Finding("pass", "the edges, compose and Kubernetes")
    with suppress(Nothing):
        yield from project.services[1]
    with suppress(Nothing):
        yield from [problem for cluster in project.clusters for problem in cluster.problems]


@timeouts.check("T8", "raise it everywhere at once with `copier update --data tool_timeout=…`")
def declared_calls(project: Project) -> Iterator[Finding]:
    """no tool declares a longer call than the server's longest"""
    longest = project.call
    for name, declared in sorted(project.declared().items(), key=lambda item: -item[1]):
        yield judged(declared <= longest, "", f"{name} {declared:g} s of {longest:g} s")


@timeouts.check("S3", "raise MCP_DRAIN_TIMEOUT, or leave it out: it follows the longest call")
def drain(project: Project) -> Iterator[Finding]:
    """here and in compose, the drain lasts at least as long as the longest call"""
    found = [("", project.limits)]
    with suppress(Nothing):
        found += [(parts[-1].at("environment"), limits) for _, parts, limits in _composed(project)]
    for where, limits in found:
        yield judged(limits.drain >= limits.call, where, f"drain {limits.drain:g} s, longest call {limits.call:g} s")


@timeouts.check("T8", "raise it; if a drop-in in conf.d/ lowered it, remove it there")
def nginx_limits(project: Project) -> Iterator[Finding]:
    """nginx: the idle limit of /mcp is at least 300 s, its read limit also above the longest call"""
    for place, given in _nginx_routes(project.nginx, {}):
        for name, default in _NGINX.items():
            found = given.get(name)
            text, where = (found.arguments[0], found.place) if found else (f"{default} (nginx's own)", place)
            yield long_enough(text, where, name, project.call if name == "proxy_read_timeout" else 0)


@timeouts.check("S4", "set keepalive_timeout 4s in the upstream")
def nginx_to_server(project: Project) -> Iterator[Finding]:
    """nginx: gives up an idle connection to the server before the server does, after 5 s"""
    for upstream in [one for one in _all(project.nginx) if one.name == "upstream"]:
        if any(one.name == "server" and _is_local(one) for one in upstream.inside):
            limits = [one for one in upstream.inside if one.name == "keepalive_timeout"]
            yield _below(limits, upstream, "60s (nginx's own)")


@timeouts.check("T8", "raise it; if a drop-in in conf.d/ lowered it, remove it there")
def caddy_limits(project: Project) -> Iterator[Finding]:
    """Caddy: the idle limit is at least 300 s, the read limits also above the longest call"""
    for found in _caddy_values(project.caddy, "idle", "read_timeout", "response_header_timeout"):
        call = 0 if found.name == "idle" else project.call
        yield long_enough(found.arguments[0], found.place, found.name, call, zero=bool(call))


@timeouts.check("T8", "remove it: a stream may be open for hours")
def caddy_streams(project: Project) -> Iterator[Finding]:
    """Caddy: nothing ends an open stream: no write, write_timeout, stream_timeout, grace_period"""
    yield Finding("pass", "none is set")
    for found in _caddy_values(project.caddy, "write", "write_timeout", "stream_timeout", "grace_period"):
        yield judged(seconds(found.arguments[0]) == 0, found.place, f"{found.name} {found.arguments[0]}")


@timeouts.check("S4", "set keepalive 4s in transport http")
def caddy_to_server(project: Project) -> Iterator[Finding]:
    """Caddy: gives up an idle connection to the server before the server does, after 5 s"""
    for proxy in [one for one in _all(project.caddy) if one.name == "reverse_proxy" and _is_local(one)]:
        limits = [one for one in _all(proxy.inside) if one.name == "keepalive"]
        yield _below(limits, proxy, "2m (Caddy's own)")


@timeouts.check("T8", "raise stop_grace_period above the drain, or the server is killed while calls run")
def compose_grace(project: Project) -> Iterator[Finding]:
    """compose: drain + 5 s < stop_grace_period of the server"""
    for name, parts, limits in _composed(project):
        part = next((part for part in reversed(parts) if "stop_grace_period" in part), parts[0])
        text = _expanded(part.text("stop_grace_period"), project.variables) or "10s"
        words = f"{name}: drain {limits.drain:g} s + 5 s, stopped after {text}"
        yield judged(limits.drain + LAST_RESORT < (seconds(text) or 0), part.at("stop_grace_period"), words)


def _composed(project: Project) -> Iterator[tuple[str, list[Block], Limits]]:
    """Yield each server of the compose files, with its parts."""
    for name, parts in project.services[0].items():
        variables = environment_of(parts, project.variables).texts
        command = next((part.texts("command") for part in reversed(parts) if part.texts("command")), [])
        if is_ours(variables) and command[:1] != ["ops"]:
            yield name, parts, Limits.of({"MCP_TOOL_TIMEOUT": f"{project.limits.call:g}", **variables})


def _of_each_cluster(check: Check[Cluster]) -> Check[Project]:
    def run(project: Project) -> Iterator[Finding]:
        for cluster in project.clusters:
            cluster.project_call = 0 if cluster.component else project.call
            found = check.run(cluster)
            yield from found if isinstance(found, Iterable) else ()

    return Check(check.id, check.name, check.rule, check.fix, run)


timeouts.extend(_of_each_cluster(check) for check in chain)


def _nginx_routes(
    tree: tuple[Directive, ...], inherited: dict[str, Directive]
) -> Iterator[tuple[str, dict[str, Directive]]]:
    """Yield each place that serves /mcp, with the limits that hold there."""
    given = inherited | {one.name: one for one in tree if one.name in _NGINX and one.arguments}
    for one in tree:
        if one.name == "location" and "/mcp" in one.arguments:
            yield one.place, given | {inner.name: inner for inner in one.inside if inner.name in _NGINX}
        else:
            yield from _nginx_routes(one.inside, given)


def _caddy_values(tree: tuple[Directive, ...], *names: str) -> Iterator[Directive]:
    """Yield the directives of these names in the global options and on the way to the server."""
    for one in _all(tree):
        if one.name == "" or (
            one.inside and (one.name == "import" or (one.name == "reverse_proxy" and _is_local(one)))
        ):
            yield from [inner for inner in _all(one.inside) if inner.name in names and inner.arguments]


def _all(tree: tuple[Directive, ...]) -> Iterator[Directive]:
    for one in tree:
        yield one
        yield from _all(one.inside)


def _is_local(one: Directive) -> bool:
    return any(re.search(r"(^|/)(127\.|localhost|\[::1\])", argument) for argument in one.arguments)


def _below(limits: list[Directive], holder: Directive, default: str) -> Finding:
    text, where = (limits[-1].arguments[0], limits[-1].place) if limits else (default, holder.place)
    found = 0 if text == "off" else seconds(text)
    return judged(found is not None and found < _TO_SERVER, where, f"keepalive {text}")


def environment_of(parts: list[Block], given: Mapping[str, str]) -> Variables:
    """Return the variables of a service, with those that compose puts into them; an empty one is none."""
    found: dict[str, str] = {}
    complete = not any("extends" in part for part in parts)
    for part in parts:
        folder = Path(part.place.rpartition(":")[0]).parent
        named = [one.text("path") for one in part.blocks("env_file")]
        for path in [folder / name for name in (*part.texts("env_file"), *named, part.text("env_file")) if name]:
            complete = complete and path.is_file()
            found |= _variables_of(path) if path.is_file() else {}
    for part in parts:
        listed = [text.partition("=")[::2] for text in part.texts("environment")]
        block = part.block("environment")
        for name, text in [*listed, *((name, block.text(name)) for name in block)]:
            found[name] = _expanded(text, given) or found.get(name, "")
    return Variables({name: text for name, text in found.items() if text}, frozenset(), complete)


def _variables_of(path: Path) -> dict[str, str]:
    """Return the variables of an env_file."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    given = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in given.items() if value is not None}


def _expanded(text: str, given: Mapping[str, str]) -> str:
    """Put variables into a text as compose does."""
    return _VARIABLE.sub(lambda found: given.get(found[1]) or found[2] or "", text)
