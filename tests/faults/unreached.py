"""Boundaries that no fault of this harness leads to, each with the reason. One that is met after all fails the run."""

from __future__ import annotations

#: By file, function and text of the line.
UNREACHED: dict[tuple[str, str, str], str] = {}
