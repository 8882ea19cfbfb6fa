"""What processor a machine offers, in AWS's terms (spec §1.4)."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from rekindle.core.errors import Invalid, MachineError


@dataclass(frozen=True, slots=True)
class Cpu:
    architecture: str
    chipset: str  #: AWS names two families and no vendor besides
    chipset_generation: str = "1"  #: Rekindle's own count of guest machine types


_OF_MACHINE = {"x86_64": Cpu("X86_64", "INTEL"), "aarch64": Cpu("ARM_64", "GRAVITON")}


def of_machine(machine: str) -> Cpu:
    """By what `uname -m` says. Raises MachineError for a machine that runs no microVMs."""
    if machine not in _OF_MACHINE:
        raise MachineError(f"MicroVMs run on {' or '.join(_OF_MACHINE)} machines, this one is {machine}")
    return _OF_MACHINE[machine]


def here() -> Cpu:
    return of_machine(platform.machine())


def check(architecture: str, cpu: Cpu) -> None:
    """Raises Invalid, naming what there is, for an architecture that guests of this machine cannot have."""
    if architecture != cpu.architecture:
        raise Invalid(f"Architecture {architecture} is not available; this machine offers {cpu.architecture}.")
