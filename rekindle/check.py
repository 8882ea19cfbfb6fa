"""What one look of the doctor at this machine found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    OK = "ok"
    WARN = "warn"  # works, but slower, or with a wall less
    FAIL = "fail"  # something does not work at all


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    name: str
    verdict: Verdict
    detail: str
    fix: str = ""  #: what to do; empty when nothing need be done


def ok(name: str, detail: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, detail=detail)


def warn(name: str, detail: str, fix: str = "") -> Check:
    return Check(name=name, verdict=Verdict.WARN, detail=detail, fix=fix)


def fail(name: str, detail: str, fix: str) -> Check:
    return Check(name=name, verdict=Verdict.FAIL, detail=detail, fix=fix)
