"""What surrounds a pod: ConfigMaps of the build, Secrets of the cluster, and a network namespace."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.deploy.kubernetes_build import Object, of_kind

Secrets = Mapping[str, Mapping[str, str]]
"""Each Secret by its name: keys and texts."""

_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_READABLE: Final = 0o644
"""What Kubernetes gives a volume's files unless told otherwise."""


@dataclass(frozen=True)
class Volumes:
    """Reads from the objects of a build, and writes what containers mount.

    Args:
        objects: The build.
        secrets: What the cluster holds beside it.
        folder: Where the files are written.
    """

    objects: list[Object]
    secrets: Secrets
    folder: Path

    def environment(self, container: Object, fields: Mapping[str, str]) -> dict[str, str]:
        """Return a container's variables; `fields` are the pod's own."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                found |= self._config_map(source["configMapRef"]["name"])
            else:
                found |= self.secrets[source["secretRef"]["name"]]
        for one in container.get("env", []):
            value = one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            found[one["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
        return found

    def mounts(self, container: Object, pod: Object) -> list[str]:
        """Return podman's options for a container's mounts."""
        volumes = {one["name"]: one for one in pod["volumes"]}
        options = []
        for mount in container["volumeMounts"]:
            volume, target = volumes[mount["name"]], mount["mountPath"]
            if "emptyDir" in volume:
                size = volume["emptyDir"]["sizeLimit"].replace("Mi", "m")
                options.append(f"--tmpfs={target}:rw,mode=1777,size={size}")
            else:
                source = self._written(volume, pod["securityContext"].get("fsGroup", 0)) / mount.get("subPath", "")
                assert mount["readOnly"]
                options.append(f"--volume={source}:{target}:ro")
        return options

    def _config_map(self, name: str) -> dict[str, str]:
        (one,) = [one for one in of_kind(self.objects, "ConfigMap") if one["metadata"]["name"] == name]
        return dict(one["data"])

    def _written(self, volume: Object, group: int) -> Path:
        folder = self.folder / str(volume["name"])
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        texts: Mapping[str, str]
        if "configMap" in volume:
            given, mode = volume["configMap"], _READABLE
            known = {one["metadata"]["name"] for one in of_kind(self.objects, "ConfigMap")}
            texts = self._config_map(given["name"]) if given["name"] in known or not given.get("optional") else {}
        else:
            given, mode = volume["secret"], volume["secret"].get("defaultMode", _READABLE)
            there = given["secretName"] in self.secrets or not given.get("optional")
            texts = self.secrets[given["secretName"]] if there else {}
        assert "items" not in given
        for name, text in texts.items():
            file = folder / name
            file.write_text(text, encoding="utf-8")
            shutil.chown(file, 0, group)
            file.chmod(mode)
        folder.chmod(0o755)
        return folder


def in_a_network_of_its_own(body: Callable[[str], None]) -> None:
    """Run `body`, told the namespace's path, in a thread with a network of its own; so is all that it starts.

    Raises:
        RuntimeError: If the tests do not run as root.
    """
    if os.geteuid() != 0:
        raise RuntimeError("a pod needs a network of its own: run these tests as root")
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
                raise RuntimeError(f"unshare: {os.strerror(ctypes.get_errno())}")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
                fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
            body(f"ns:/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net")
        except BaseException as error:  # handed on to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
