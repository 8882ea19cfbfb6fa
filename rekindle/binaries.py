"""Where our own Go programs are: shipped in the installed package, or built beside a source checkout."""

from __future__ import annotations

import os
from pathlib import Path

from rekindle.core.errors import MachineError

NAMES = ("rekindle-agent", "rekindle-relay", "rekindle-jail")
_PACKAGE = Path(__file__).resolve().parent
#: A checkout first: there, what `make go` has just built is what is meant.
_PLACES = (_PACKAGE.parent / "build" / "bin", _PACKAGE / "bin")


def find(name: str, places: tuple[Path, ...] = _PLACES) -> Path:
    """The program called `name`, one of NAMES. Raises MachineError saying how to get it when it is not built."""
    for place in places:
        if os.access(place / name, os.X_OK) and (place / name).is_file():
            return place / name
    raise MachineError(
        f"The program {name} is not built (looked in {', '.join(map(str, places))}): "
        f"run `make go` in a checkout, or install the package again (pip compiles it)"
    )
