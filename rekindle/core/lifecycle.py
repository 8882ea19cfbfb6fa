"""The life of a microVM: one table, and what each phase owes.

Everything that decides a transition is in this file. An *ask* comes from a caller and may be refused; a *fact* comes
from the node and may be late (Stale: dropped and logged). A transitional phase is the instruction: after a crash the
node asks which of its VMs are in a phase that owes work and does it again, so every piece of work can be repeated.

Enum, not StrEnum: with StrEnum `Ask.SUSPEND == Work.SUSPEND` and keys of different enums collide.
"""

from __future__ import annotations

from enum import Enum

from rekindle.core.errors import Invalid, Refused, Stale


class Phase(Enum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    RESUMING = "RESUMING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"


class Ask(Enum):
    SUSPEND = "suspend"
    RESUME = "resume"
    TERMINATE = "terminate"


class Fact(Enum):
    STARTED = "started"  # restored from the image, thawed, /run answered
    SUSPENDED = "suspended"  # the manifest is renamed in and the VMM is gone
    SUSPEND_FAILED = "suspend failed"  # nothing was lost: the VM goes on
    RESUMED = "resumed"
    RESUME_FAILED = "resume failed"  # the snapshot is still whole: back to sleep
    FELL_BACK = "fell back"  # the VMM died and an older snapshot is whole
    LOST = "lost"  # nothing is left to go on with
    STOPPED = "stopped"  # no process, socket or file of it is left


class Work(Enum):
    START = "start"
    SUSPEND = "suspend"
    RESUME = "resume"
    STOP = "stop"


_P = Phase

NEXT: dict[tuple[Phase, Ask | Fact], Phase] = {
    (_P.PENDING, Fact.STARTED): _P.RUNNING,
    (_P.PENDING, Fact.LOST): _P.TERMINATING,
    (_P.PENDING, Ask.TERMINATE): _P.TERMINATING,
    (_P.RUNNING, Ask.SUSPEND): _P.SUSPENDING,
    (_P.RUNNING, Ask.RESUME): _P.RUNNING,
    (_P.RUNNING, Ask.TERMINATE): _P.TERMINATING,
    (_P.RUNNING, Fact.FELL_BACK): _P.SUSPENDED,
    (_P.RUNNING, Fact.LOST): _P.TERMINATING,
    (_P.SUSPENDING, Ask.SUSPEND): _P.SUSPENDING,
    (_P.SUSPENDING, Ask.TERMINATE): _P.TERMINATING,
    (_P.SUSPENDING, Fact.SUSPENDED): _P.SUSPENDED,
    (_P.SUSPENDING, Fact.SUSPEND_FAILED): _P.RUNNING,
    (_P.SUSPENDING, Fact.FELL_BACK): _P.SUSPENDED,
    (_P.SUSPENDING, Fact.LOST): _P.TERMINATING,
    (_P.SUSPENDED, Ask.SUSPEND): _P.SUSPENDED,
    (_P.SUSPENDED, Ask.RESUME): _P.RESUMING,
    (_P.SUSPENDED, Ask.TERMINATE): _P.TERMINATING,
    (_P.RESUMING, Ask.RESUME): _P.RESUMING,
    (_P.RESUMING, Ask.TERMINATE): _P.TERMINATING,
    (_P.RESUMING, Fact.RESUMED): _P.RUNNING,
    (_P.RESUMING, Fact.RESUME_FAILED): _P.SUSPENDED,
    (_P.RESUMING, Fact.LOST): _P.TERMINATING,
    (_P.TERMINATING, Ask.TERMINATE): _P.TERMINATING,
    (_P.TERMINATING, Fact.STOPPED): _P.TERMINATED,
    (_P.TERMINATED, Ask.TERMINATE): _P.TERMINATED,
}

OWES: dict[Phase, Work] = {
    _P.PENDING: Work.START,
    _P.SUSPENDING: Work.SUSPEND,
    _P.RESUMING: Work.RESUME,
    _P.TERMINATING: Work.STOP,
}

#: What a caller sees. RESUMING is ours; AWS has no such state (spec §1.7).
WIRE: dict[Phase, str] = {phase: phase.value for phase in Phase} | {_P.RESUMING: _P.SUSPENDED.value}

_OVER = (_P.TERMINATING, _P.TERMINATED)


def advance(vm_id: str, phase: Phase, on: Ask | Fact) -> Phase:
    """The phase after `on`.

    Raises Invalid for an ask of a VM that is over (AWS answers 400 with this text, spec §1.8), Refused for an ask that
    this phase does not allow, Stale for a fact that came too late. Nothing changes when it raises.
    """
    try:
        return NEXT[phase, on]
    except KeyError:
        if isinstance(on, Fact):
            raise Stale(f"{vm_id}: {on.value} while {phase.value}") from None
    if phase in _OVER:
        raise Invalid(f"The MicroVM {vm_id} has been terminated and its state cannot be changed.")
    raise Refused(f"Cannot {on.value} MicroVM {vm_id} while it is {WIRE[phase]}.")
