"""What the API servers of three versions, and the operators' own schemas, say about objects.

The schemas of custom resources come from npm as TypeScript: its types know every field, its validators every bound.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final

import kubernetes_validate  # type: ignore[import-untyped]

from tests.deploy.kubernetes_build import Object
from tests.live.node import installed, node

_TYPESCRIPT: Final = ("typescript", "5.9.3")
_CUSTOM: Final = {
    "gateway.networking.k8s.io": ("@kubernetes-models/gateway-api", "2.0.0"),
    "networking.istio.io": ("@kubernetes-models/istio", "3.0.1"),
    "security.istio.io": ("@kubernetes-models/istio", "3.0.1"),
    "monitoring.coreos.com": ("@kubernetes-models/prometheus-operator", "6.0.0"),
    "external-secrets.io": ("@kubernetes-models/external-secrets", "2.0.0"),
}
_GOOD: Final[set[str]] = set()
"""Custom resources that were found good; combinations of answers share most, and nobody need ask twice."""
_OPTIONS: Final = ("--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "esnext")


def versions() -> list[str]:
    """Return the three newest versions of Kubernetes whose schemas are at hand."""
    names = [folder.name for folder in (resources.files(kubernetes_validate) / "kubernetes-json-schema").iterdir()]
    found = {tuple(map(int, name[1:].split(".")[:2])) for name in names if name.startswith("v1.")}
    return [f"{major}.{minor}" for major, minor in sorted(found)[-3:]]


def is_custom(one: Object) -> bool:
    """Tell whether an object's schema is an operator's, not the API server's own."""
    return str(one["apiVersion"]).partition("/")[0] in _CUSTOM


def refused_by_the_server(objects: Iterable[Object]) -> list[str]:
    """Return what the API servers would refuse; a kind that they do not know is refused, too."""
    return [said for one in objects if not is_custom(one) for said in _refused(json.dumps(one))]


@functools.cache
def _refused(text: str) -> list[str]:
    one, found = json.loads(text), []
    for version in versions():
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except (
            kubernetes_validate.InvalidSchemaError,
            kubernetes_validate.SchemaNotFoundError,
            kubernetes_validate.ValidationError,
        ) as error:
            found.append(f"{version}: {one['kind']}/{one['metadata']['name']}: {type(error).__name__} {error}")
    return found


def refused_by_operators(objects: Iterable[Object], folder: Path) -> str:
    """Return what the types and the validators of custom resources refuse, or an empty text.

    Args:
        objects: All objects of a stream; the API server's own are passed over.
        folder: Where the program that checks them is written.
    """
    custom = [one for one in objects if is_custom(one) and json.dumps(one) not in _GOOD]
    if not custom:
        return ""
    lines = ["const refused: string[] = [];"]
    for number, one in enumerate(custom):
        group, _, version = one["apiVersion"].partition("/")
        model = installed(*_CUSTOM[group]) / group / version / f"{one['kind']}.js"
        body = json.dumps({key: value for key, value in one.items() if key not in ("apiVersion", "kind")})
        title = json.dumps(f"{one['kind']}/{one['metadata']['name']}")
        lines += [
            f"import {{ {one['kind']} as Model{number} }} from {json.dumps(str(model))};",
            f"try {{ new Model{number}({body}).validate(); }}",
            f"catch (error) {{ refused.push({title} + ': ' + (error as Error).message); }}",
        ]
    script = folder / "custom.mts"
    script.write_text("\n".join([*lines, "console.log(refused.join('\\n'));"]), encoding="utf-8")
    compiler = installed(*_TYPESCRIPT) / "lib" / "tsc.js"
    typed, run = node(compiler, *_OPTIONS, str(script), cwd=folder), node(script, cwd=folder)
    said = (typed.stdout + run.stdout + run.stderr).strip()
    _GOOD.update(json.dumps(one) for one in custom if not said)
    return said
