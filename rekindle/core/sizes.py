"""How big a microVM may be (spec §1.4, §6.2)."""

from __future__ import annotations

from collections.abc import Iterable

from rekindle.core.errors import Invalid

AWS_SIZES_MIB = (512, 1024, 2048, 4096, 8192)
_MIB_PER_VCPU = 2048


def check_memory(memory_mib: int, extra_sizes_mib: Iterable[int], base_arn: str) -> int:
    """`memory_mib` if it is one of AWS's sizes or one that the operator allows. Raises Invalid with AWS's text."""
    sizes = sorted({*AWS_SIZES_MIB, *extra_sizes_mib})
    if memory_mib not in sizes:
        raise Invalid(
            f"The requested memory size of {memory_mib} MiB is not supported by base MicroVM image {base_arn}. "
            f"Supported memory sizes in MiB are: {sizes}."
        )
    return memory_mib


def vcpus(memory_mib: int, host_cpus: int) -> int:
    """AWS's baseline of one vCPU for 2 GiB, at least one, never more than the host has."""
    return max(1, min(host_cpus, memory_mib // _MIB_PER_VCPU))
