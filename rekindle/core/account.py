"""Accounts and their access keys. Every row, file and token belongs to an account; a key speaks for exactly one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AccessKey:
    key_id: str  #: `AKIA` and 16 of A-Z2-7
    secret: str = field(repr=False)  #: 40 characters
    account: str  #: 12 digits


#: The key of that id, or None when there is none (any more).
KeyLookup = Callable[[str], Awaitable[AccessKey | None]]
