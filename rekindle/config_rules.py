"""What the values of a configuration must keep to, beyond their types: rules that name the key."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekindle.config import Config, Idle, Quotas


def rules(config: Config) -> dict[str, bool]:
    """Each rule in words, and whether the configuration keeps it."""
    build, ingress, machine, memory = config.build, config.ingress, config.machine, config.memory
    kept = {
        "account must be 12 digits": re.fullmatch(r"\d{12}", config.account),
        "region must be lower-case letters, digits and '-'": re.fullmatch(r"[a-z0-9-]{1,32}", config.region),
        "build.trust must be nobody or operator": build.trust in ("nobody", "operator"),
        "build.concurrent must be at least 1": build.concurrent >= 1,
        "memory.peak_factor must be at least 1": memory.peak_factor >= 1,
        "memory.mib_per_vcpu must be at least 1": memory.mib_per_vcpu >= 1,
        "memory.overcommit must be at least 1": memory.overcommit >= 1,
        "memory.host_mib must be at least 0": memory.host_mib >= 0,
        "memory.default_mib must be at least 1": memory.default_mib >= 1,
        "memory.extra_sizes_mib must be at least 1 each": all(size >= 1 for size in memory.extra_sizes_mib),
        "egress.vpc must be none or internet": config.egress.vpc in ("none", "internet"),
        "ingress.first_port and ingress.last_port must be ports, the first not above the last": 1
        <= ingress.first_port
        <= ingress.last_port
        <= 65535,
        "ingress.hold_s must be at least 1": ingress.hold_s >= 1,
        "lifetime.max_duration_s must be at least 1": config.lifetime.max_duration_s >= 1,
        "hooks.failed_suspend must be terminate or keep_running": config.hooks.failed_suspend
        in ("terminate", "keep_running"),
        "machine.probe_s must be at least 1": machine.probe_s >= 1,
        "machine.first_uid must be above 0": machine.first_uid > 0,
        "machine.uids must be at least the number of endpoint ports: each VMM has a uid of its own": machine.uids
        > ingress.last_port - ingress.first_port,
    }
    ours = kept | _idle_rules(config.idle) | _quota_rules(config.quotas)
    return {rule: bool(value) for rule, value in ours.items()}


def _idle_rules(idle: Idle) -> dict[str, bool]:
    return {
        "idle.lease_max_s must be at least 0 (0: no leases)": idle.lease_max_s >= 0,
        "idle.awake_s must be at least 1: a suspension costs more than a second of running": idle.awake_s >= 1,
        "idle.cpu_percent must be at least 0 (0: CPU time is no activity)": idle.cpu_percent >= 0,
        "idle.egress_kib must be at least 0 (0: the guest's own traffic is no activity)": idle.egress_kib >= 0,
        "idle.window_s must be at least 1": idle.window_s >= 1,
    }


def _quota_rules(quotas: Quotas) -> dict[str, bool]:
    rules = {}
    for one in dataclasses.fields(quotas):
        value = getattr(quotas, one.name)
        if isinstance(value, int):
            rules[f"quotas.{one.name} must be at least 0 (0: no limit)"] = value >= 0
        elif isinstance(value, tuple):
            rules[
                f"quotas.{one.name} must be [requests per second, burst], each at least 1, or [0, 0] for no limit"
            ] = len(value) == 2 and (min(value) >= 1 or value == (0, 0))
    return rules
