"""Ceilings of an account and of this machine, as values: who writes a row is handed them (spec §6.2, §8.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """How much one account may have at a time, whatever the region. 0: no ceiling."""

    memory_mib: int = 0  #: baseline memory of microVMs that are not TERMINATED
    microvms: int = 0  #: not TERMINATED
    images: int = 0
    versions_per_image: int = 0
    concurrent_builds: int = 0  #: versions that are PENDING or IN_PROGRESS
    connectors: int = 0
    versions_per_connector: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much guest memory the microVMs of a machine may have together while they have a process. 0: no ceiling."""

    guest_mib: int = 0
    peak_factor: int = 1  #: guest memory of a microVM = its baseline memory times this

    def holds(self, baseline_mib: int) -> bool:
        """Whether microVMs of that baseline memory, all together, fit in."""
        return not self.guest_mib or baseline_mib * self.peak_factor <= self.guest_mib


NO_CEILINGS = Ceilings()
NO_LIMIT = Room()
