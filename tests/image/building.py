"""What the build tests share: contexts from a dict, a build with its log, and a look into the root disk."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekindle.core.errors import BuildFailed
from rekindle.image.base import BaseImage
from rekindle.image.build import BuildRequest, Built, build
from rekindle.image.inside import program
from rekindle.image.toolbox import Toolbox


@dataclass
class Room:
    """One account's storage and the folders of its builds."""

    tools: Toolbox
    base: BaseImage
    folder: Path
    lines: list[str] = field(default_factory=list)  #: the log of the last build
    build_ids: list[str] = field(default_factory=list)
    on_line: Callable[[str], None] = lambda text: None

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def request(self, dockerfile: str, files: Mapping[str, str] | None = None, **changes: Any) -> BuildRequest:
        build_id = str(uuid.uuid4())
        self.build_ids.append(build_id)
        context = self.folder / build_id / "context"
        for name, text in {"Dockerfile": dockerfile, **(files or {})}.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_text(text)
        limits = {"timeout_s": 120, "memory_mib": 1024, "pids": 300, "storage_mib": 2048, **changes}
        out = self.folder / build_id / "out"
        return BuildRequest(build_id=build_id, context=context, storage=self.storage, out=out, **limits)

    async def build(self, dockerfile: str, files: Mapping[str, str] | None = None, **changes: Any) -> Built:
        return await self.run(self.request(dockerfile, files, **changes))

    async def run(self, request: BuildRequest) -> Built:
        self.lines = []

        def log(text: str) -> None:
            self.lines.append(text)
            self.on_line(text)

        return await build(self.tools, self.base, request, log)

    async def fails(self, dockerfile: str, **changes: Any) -> BuildFailed:
        """The failure of a build that must fail, which leaves no root disk."""
        request = self.request(dockerfile, **changes)
        try:
            await self.run(request)
        except BuildFailed as err:
            assert not list(request.out.iterdir())
            return err
        raise AssertionError("the build did not fail")

    def unpacked(self, built: Built) -> Path:
        """The files of the root disk, in a folder."""
        into = built.root_disk.parent / "root"
        argv = [*program(self.tools.root, "/usr/bin/fsck.erofs"), f"--extract={into}", str(built.root_disk)]
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        return into

    def owner(self, built: Built, path: str) -> tuple[str, str]:
        """Uid and gid that the root disk has for a path, whoever unpacks it."""
        argv = [*program(self.tools.root, "/usr/bin/dump.erofs"), f"--path={path}", str(built.root_disk)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
        found = re.search(r"Uid: (\d+) +Gid: (\d+)", said)
        assert found is not None, said
        return found[1], found[2]
