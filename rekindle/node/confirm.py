"""What a guest must confirm after its thaw before it is served (docs/clones.md).

The guest answers with what is there after each step, and that is compared with what was asked for. This finds an agent
that did not do its work; one that lies harms its own microVM only.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from rekindle.core.errors import GuestError
from rekindle.guest.client import Guest, HookCall, Thawed

CLOCK_SLACK_S = 1.0
#: What `image.json` says of an agent that confirms all of this. Older ones confirm the seed alone.
ALL = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a thaw asks of a guest; made right before it is sent."""

    hostname: str
    machine_id: str
    now_ns: int
    seed: bytes | None
    at_s: float = field(default_factory=time.monotonic)


async def thaw(
    guest: Guest,
    who: str,
    asked: Asked,
    *,
    first: bool,
    hook: HookCall | None = None,
    about: Mapping[str, object] | None = None,
    all_of_it: bool = True,
) -> Thawed:
    """Thaw `guest` as asked, and return what it said. Raises GuestError as `check` does."""
    thawed = await guest.thaw(
        entropy=asked.seed,
        now_ns=asked.now_ns,
        hostname=asked.hostname,
        machine_id=asked.machine_id,
        first=first,
        hook=hook,
        about=about,
    )
    check(who, asked, thawed, all_of_it=all_of_it)
    return thawed


def check(who: str, asked: Asked, thawed: Thawed, *, all_of_it: bool = True) -> None:
    """Raises GuestError that names the first thing which `who` did not confirm."""
    if asked.seed is not None and not thawed.seeded:
        raise GuestError(f"{who} did not confirm that its random number generator was reseeded")
    if not all_of_it:
        return
    late_ns = (time.monotonic() - asked.at_s + CLOCK_SLACK_S) * 1e9
    for confirmed, what in (
        (thawed.held, "that its app stood still until its thaw"),
        (thawed.clock_ns is not None and 0 <= thawed.clock_ns - asked.now_ns <= late_ns, "that its clock was set"),
        (thawed.hostname == asked.hostname, f"its host name {asked.hostname}"),
        (thawed.machine_id == asked.machine_id, "its machine-id"),
        (thawed.boot_id == boot_id_of(asked.machine_id), "its boot id"),
        (thawed.cut, "that its old connections to the outside were reset"),
        (thawed.generation is not None and thawed.generation > 0, "that it told its app of the thaw"),
    ):
        if not confirmed:
            raise GuestError(f"{who} did not confirm {what}")


def boot_id_of(machine_id: str) -> str:
    """As the agent makes it (go/internal/agent/container): a VM never boots again, so one machine has one boot id."""
    digest = hashlib.sha256(f"rekindle boot {machine_id}".encode()).digest()[:16]
    return str(uuid.UUID(bytes=digest, version=4))


def level_of(image: object) -> int:
    """What an `image.json` says its agent confirms; 1 when it says nothing: it is from before there was more."""
    level = image.get("confirms") if isinstance(image, dict) else None
    return level if isinstance(level, int) else 1
