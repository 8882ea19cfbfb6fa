"""Guests for benches; `WALKER` is what one sends to the example interpreter to make it one."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
WALKER = (FOLDER / "walker/walker.py").read_text()
