"""What a team may break in a rendered project, and the check of `check timeouts` that tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

OVERLAY = "deploy/kubernetes/overlays/production"
PATCH = f"{OVERLAY}/mine.yaml"
DEPLOYMENT = (
    "\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: acme-notes}\nspec: {template: {spec: {%s}}}\n"
)


def append(name: str, text: str) -> str:
    """Add text to a file, which may be new, and return the place of its last line."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(before + text, encoding="utf-8")
    return f"{name}:{len((before + text).splitlines())}"


def exchange(name: str, old: str, new: str) -> str:
    """Exchange a text that is there, and return its place."""
    path = Path(name)
    before = path.read_text(encoding="utf-8")
    assert old in before, f"{name} holds no {old!r}"
    path.write_text(before.replace(old, new), encoding="utf-8")
    return f"{name}:{before[: before.index(old)].count(chr(10)) + 1}"


def patch(text: str) -> str:
    """Add to the overlay's patches, and return the place of the last line."""
    if not Path(PATCH).is_file():
        exchange(f"{OVERLAY}/kustomization.yaml", "patches:\n", "patches:\n  - path: mine.yaml\n")
    return append(PATCH, text)


SABOTEURS: dict[str, tuple[str, Callable[[], str]]] = {
    "a drop-in shortens the public listener": (
        "nginx_limits",
        lambda: append("deploy/nginx/conf.d/x.public.conf", "# mine\nproxy_read_timeout 1m;\n"),
    ),
    "nginx cuts idle clients": (
        "nginx_limits",
        lambda: exchange("deploy/nginx/nginx.conf", "keepalive_timeout 300s", "keepalive_timeout 75s"),
    ),
    "nginx keeps what the server closed": (
        "nginx_to_server",
        lambda: exchange("deploy/nginx/nginx.conf", "keepalive_timeout 4s", "keepalive_timeout 60s"),
    ),
    "nginx cannot be read": (
        "readable",
        lambda: append("deploy/nginx/conf.d/x.public.conf", "client_max_body_size 4m;\n}\n"),
    ),
    "Caddy waits a minute": (
        "caddy_limits",
        lambda: exchange("deploy/caddy/Caddyfile", "read_timeout 300s", "read_timeout 1m"),
    ),
    "Caddy cuts idle clients": (
        "caddy_limits",
        lambda: append("deploy/caddy/conf.d/x.servers.caddy", "timeouts {\n\tidle 30s\n}\n").replace(":3", ":2"),
    ),
    "Caddy ends streams": (
        "caddy_streams",
        lambda: exchange("deploy/caddy/Caddyfile", "write_idle 60s", "write 60s"),
    ),
    "Caddy keeps what the server closed": (
        "caddy_to_server",
        lambda: exchange("deploy/caddy/Caddyfile", "keepalive 4s", "keepalive 90s"),
    ),
    "compose kills a drain": (
        "compose_grace",
        lambda: append(
            "deploy/compose.override.yaml", "services:\n  server:\n    environment: {A: b}\n    stop_grace_period: 2m\n"
        ),
    ),
    "compose drains longer than it waits": (
        "compose_grace",
        lambda: (
            append("deploy/compose.override.yaml", "services: {server: {environment: [MCP_DRAIN_TIMEOUT=300]}}\n")
            and exchange("deploy/compose.yaml", "stop_grace_period", "stop_grace_period")
        ),
    ),
    "an overlay shortens the grace": (
        "grace_period",
        lambda: patch(DEPLOYMENT % "terminationGracePeriodSeconds: 60"),
    ),
    "an overlay shortens it by a JSON patch": (
        "grace_period",
        lambda: exchange(
            f"{OVERLAY}/kustomization.yaml",
            "  # Replicas.",
            "  - {target: {kind: Deployment}, patch: "
            """'[{"op":"replace", "value":60, "path":"/spec/template/spec/terminationGracePeriodSeconds"}]'}""",
        ),
    ),
    "an overlay drains longer": (
        "grace_period",
        lambda: (
            exchange(f"{OVERLAY}/kustomization.yaml", "- MCP_AUTH=keys", "- MCP_DRAIN_TIMEOUT=200")
            and exchange(
                "deploy/kubernetes/base/server.yaml", "terminationGracePeriodSeconds", "terminationGracePeriodSeconds"
            )
        ),
    ),
    "an overlay's route is short": (
        "route_timeouts",
        lambda: patch(
            "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: acme-notes}\n"
            "spec:\n  rules:\n    - timeouts: {request: 30s}\n",
        ),
    ),
    "a manifest beside the overlays": (
        "ingress_timeouts",
        lambda: append(
            "deploy/kubernetes/mine.yaml",
            "kind: Ingress\nmetadata:\n  annotations:\n"
            "    alb.ingress.kubernetes.io/load-balancer-attributes: a=b,idle_timeout.timeout_seconds=60\n",
        ),
    ),
    "a manifest beside them lets go too early": (
        "balancer_delay",
        lambda: append(
            "deploy/kubernetes/mine.yaml",
            "kind: Ingress\nmetadata:\n  annotations:\n"
            "    alb.ingress.kubernetes.io/target-group-attributes: deregistration_delay.timeout_seconds=30\n",
        ),
    ),
    "a patch is not there": (
        "readable",
        lambda: exchange(f"{OVERLAY}/kustomization.yaml", "  # Replicas.", "  - path: patch.yaml"),
    ),
    "compose leaves no time for the last resort": (
        "compose_grace",
        lambda: append("deploy/compose.override.yaml", "services:\n  server:\n    stop_grace_period: 130s\n"),
    ),
    "compose drains too short": (
        "drain",
        lambda: append(
            "deploy/compose.override.yaml", "services:\n  server:\n    environment: {MCP_DRAIN_TIMEOUT: 60}\n"
        ),
    ),
    "a manifest cannot be read": ("readable", lambda: append("deploy/kubernetes/mine.yaml", "kind: [\n---\n")),
}
