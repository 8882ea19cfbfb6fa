"""How buildah is told what to do, and how its answers are read."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP \d+(?:/\d+)?: .*")
_ERROR = re.compile(r"[Ee]rror: (.*)")
_EXIT_STATUS = re.compile(r"exit status (\d+)")
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_LINES_KEPT = 12
_WANTED_FILES = 1 << 20
WANTED_PROCESSES = 1 << 15


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What an image says about its main process, joined as Docker joins it."""

    env: Mapping[str, str]
    argv: tuple[str, ...]  #: ENTRYPOINT + CMD; shell forms are `/bin/sh -c ...`. Empty: the image names neither
    workdir: str  #: "/" unless set
    user: str  #: as in the Dockerfile: "", a name or uid, with `:group` or not
    exposed: tuple[int, ...]  #: TCP ports, sorted
    stop_signal: str  #: "SIGTERM" unless set


def config_of(image_json: str) -> ImageConfig:
    """From `buildah inspect --type image`."""
    config: dict[str, Any] = json.loads(image_json)["Docker"]["config"] or {}
    env = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    ports = (entry.partition("/") for entry in config.get("ExposedPorts") or {})
    return ImageConfig(
        env=env,
        argv=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        workdir=config.get("WorkingDir") or "/",
        user=config.get("User") or "",
        exposed=tuple(sorted({int(port) for port, _, kind in ports if kind in ("", "tcp")})),
        stop_signal=config.get("StopSignal") or "SIGTERM",
    )


#: What Dockerfiles call the managed base image, and the name in a build's storage that this is an alias of. buildah
#: takes a local image for any name that ends like its own: nothing that others use (`debian:13`) may be the end of it.
BASE_NAME, BASE_TAG = "rekindle/debian", "13"
BASE_STORED_NAME = "localhost/rekindle-managed-debian"


def build_arguments(mounts: Mapping[str, str], cgroup: str | None, processes: int) -> list[str]:
    """Arguments of `buildah build`; `mounts` maps a target in RUN steps to a file in /rk/files.

    The network is the box's (buildnet.py), for RUN steps and for buildah alike, so `RUN --network=host` gains nothing.
    """
    arguments = ["--isolation=oci", "--runtime=runc", "--format=docker", "--layers", "--network=host", "--pull=newer"]
    arguments += ["--retry=2", "--retry-delay=1s"]
    arguments += ["--cap-add=CAP_MKNOD", "--cap-drop=CAP_NET_RAW", "--cap-drop=CAP_NET_ADMIN"]
    if cgroup:
        arguments.append(f"--cgroup-parent=/{cgroup}/run")
    arguments += [f"--ulimit=nofile={_limit(resource.RLIMIT_NOFILE, _WANTED_FILES)}"]
    arguments += [f"--ulimit=nproc={_limit(resource.RLIMIT_NPROC, processes)}"]
    arguments += [f"--volume=/rk/files/{name}:{target}:ro" for target, name in mounts.items()]
    return [*arguments, "--iidfile=/rk/work/image-id", "--file=/rk/work/Dockerfile", "/rk/context"]


def _limit(which: int, wanted: int) -> str:
    """Newer buildah asks for more than root may have without CAP_SYS_RESOURCE: never above our own hard limit."""
    hard = resource.getrlimit(which)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    return f"{value}:{value}"


def write_settings(folder: Path, *, insecure_registries: Iterable[str], hosts: str) -> None:
    """The files that builder.sh puts into the tree's /etc."""
    folder.mkdir(parents=True)
    (folder / "storage.conf").write_text(_STORAGE)
    (folder / "registries.conf").write_text(_registries(insecure_registries))
    (folder / "containers.conf").write_text(_CONTAINERS)
    (folder / "auth.json").write_text("{}\n")  # buildah stops when the file it is told of is not there
    (folder / "hosts").write_text(hosts)


_STORAGE = """\
[storage]
driver = "overlay"
runroot = "/run/containers"
graphroot = "/rk/storage/graph"
[storage.options]
additionalimagestores = ["/rk/base"]
"""
#: buildah looks for a network program at every start, also when no step will have a network that it makes.
_CONTAINERS = """\
[engine]
helper_binaries_dir = ["/rk/helpers"]
"""


def _registries(insecure: Iterable[str]) -> str:
    """Short names mean docker.io, as in Docker, but for the managed base image."""
    lines = ['unqualified-search-registries = ["docker.io"]', 'short-name-mode = "enforcing"']
    lines += ["[aliases]", f"{json.dumps(BASE_NAME)} = {json.dumps(BASE_STORED_NAME)}"]
    for registry in insecure:
        lines += ["[[registry]]", f"location = {json.dumps(registry)}", "insecure = true"]
    return "\n".join(lines) + "\n"


class Progress:
    """Reads buildah's output as it comes: the step it is in, and why it stopped."""

    def __init__(self) -> None:
        self.step = ""
        self.error = ""
        self._last: list[str] = []

    def line(self, text: str) -> None:
        if _STEP.fullmatch(text):
            self.step = text
        elif found := _ERROR.match(text):
            self.error = found[1].replace("/rk/work/", "").replace("/rk/context/", "")
        if text.strip():
            self._last = [*self._last[-(_LINES_KEPT - 1) :], text]

    @property
    def no_space(self) -> bool:
        return any(_NO_SPACE.search(line) for line in self._last)

    def failure(self, code: int) -> str:
        """One sentence: the failing step and how it ended."""
        status = _EXIT_STATUS.search(self.error)
        if self.step and status:
            return f"{self.step}: exit status {status[1]}"
        reason = self.error or (self._last[-1] if self._last else f"the builder ended with code {code}")
        return f"{self.step}: {reason}" if self.step else reason
