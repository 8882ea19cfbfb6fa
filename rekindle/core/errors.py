"""The errors that may cross a process or the wire. `api/errors.py` maps each to one AWS shape, once.

A message is one sentence for the caller: every attribute that is not the cause, never the cause's text
(`raise ... from err` keeps it). Anything that is not one of these is a bug and becomes an InternalServerException.
"""

from __future__ import annotations


class RekindleError(Exception):
    """Root of every error a caller may see."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Invalid(RekindleError):
    """The request breaks a rule; the message names the field and the rule."""


class Constraint(Invalid):
    """A rule that the schema itself says; checked in front of every operation, and answered alike by all of them."""


class NotFound(RekindleError):
    """No such thing in this account and region."""


class Refused(RekindleError):
    """The thing exists but its present state does not allow what was asked."""


class Denied(RekindleError):
    """The caller is not who they say, or may not do this. `code` is the AWS error code to answer with."""

    def __init__(self, message: str, *, code: str = "AccessDeniedException") -> None:
        super().__init__(message)
        self.code = code


class OverQuota(RekindleError):
    """A configured ceiling is reached."""


class Throttled(RekindleError):
    """Too many calls; `retry_after_s` says when to come back, `quota_code` what AWS calls the rate (None: unknown)."""

    def __init__(self, message: str, *, retry_after_s: int = 1, quota_code: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.quota_code = quota_code


class NoCapacity(RekindleError):
    """This machine has no room for it now (memory, disk or ports)."""


class Unfinished(RekindleError):
    """A part of the AWS API that Rekindle does not have yet; the message says so and where it is tracked."""


class BuildFailed(RekindleError):
    """An image version could not be made. `code` is one of the spec's failure codes (spec §7)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GuestError(RekindleError):
    """The guest did not do, or did not confirm, what it was asked."""


class HookFailed(GuestError):
    """A lifecycle hook answered something other than 200, or nothing in time (spec §4)."""


class AppEnded(HookFailed):
    """The app's main process ended in one of its hooks; the message says with which exit code."""


class MachineError(RekindleError):
    """The VMM or the host refused: a start, a snapshot, a restore."""


class DiskFull(MachineError):
    """A guest stands still because the machine's disk takes none of its writes; it can go on when there is room."""


class SnapshotMismatch(MachineError):
    """A snapshot was made by another QEMU, machine, CPU, kernel or TSC rate, or its files are not what it names."""


class Stale(Exception):
    """A fact about a phase that is over. Dropped and logged, never shown."""
