"""How big a microVM may be (spec §1.4, §6.2)."""

from __future__ import annotations

from collections.abc import Iterable

from rekindle.core.errors import Invalid

AWS_SIZES_MIB = (512, 1024, 2048, 4096, 8192)


def check_memory(memory_mib: int, extra_sizes_mib: Iterable[int], base_arn: str) -> int:
    """`memory_mib` if it is one of AWS's sizes or one that the operator allows. Raises Invalid with AWS's text."""
    sizes = sorted({*AWS_SIZES_MIB, *extra_sizes_mib})
    if memory_mib not in sizes:
        raise Invalid(
            f"The requested memory size of {memory_mib} MiB is not supported by base MicroVM image {base_arn}. "
            f"Supported memory sizes in MiB are: {sizes}."
        )
    return memory_mib


def vcpus(memory_mib: int, host_cpus: int, mib_per_vcpu: int) -> int:
    """One vCPU for `mib_per_vcpu` of baseline memory, at least one, never more than the host has.

    AWS grants one for 2048 MiB at all times and shows the guest one for 512 (spec §6.2).
    """
    return max(1, min(host_cpus, memory_mib // mib_per_vcpu))
