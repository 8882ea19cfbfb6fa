"""Builds the Go programs with the package: `pip install` needs nothing but pip, Go comes as a build requirement.

A wheel carries them as rekindle/bin/; an editable install finds them in the checkout's build/bin (binaries.py).
"""

from __future__ import annotations

import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GoPrograms(BuildHookInterface[BuilderConfig]):
    """For wheels only: a source archive carries the sources."""

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        build = runpy.run_path(str(Path(self.root) / "scripts" / "build_go.py"))["build"]
        if version == "editable":
            build(Path(self.root) / "build" / "bin")
            return
        self._scratch = tempfile.TemporaryDirectory()
        for program in build(Path(self._scratch.name)):
            build_data["force_include"][str(program)] = f"rekindle/bin/{program.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
