"""The three guests of the soak and how each is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import guests
from bench.speaker import ROOT, compile_go
from tests.e2e.cloud import HOOKS

PORT = 8080


@dataclass(frozen=True)
class Kind:
    """A guest and how it is made."""

    name: str
    memory_mib: int
    hooks: dict[str, Any]
    folder: Callable[[Path], Path]  #: makes what a user would zip, below a scratch folder
    snippets: bool = False


def _interpreter(scratch: Path) -> Path:
    return _copied(ROOT / "examples/interpreter", scratch)


def _static(scratch: Path) -> Path:
    folder = _copied(guests.FOLDER / "static-walker", scratch)
    compile_go(folder, ".", folder / "app")
    return folder


def _walker(scratch: Path) -> Path:
    return _copied(guests.FOLDER / "walker", scratch)


def _copied(source: Path, scratch: Path) -> Path:
    return shutil.copytree(source, scratch / source.name, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))


def _runtime(*names: str) -> dict[str, Any]:
    on = dict.fromkeys(names, "ENABLED")
    return {"microvmHooks": on | {f"{name}TimeoutInSeconds": 60 for name in names}}


KINDS = (
    Kind("interpreter", 256, HOOKS | _runtime("run", "resume", "suspend", "terminate"), _interpreter, snippets=True),
    Kind("static-walker", 128, HOOKS | {"port": PORT} | _runtime("resume"), _static),
    Kind("walker", 256, HOOKS | {"port": PORT} | _runtime(), _walker),
)
