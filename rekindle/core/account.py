"""Accounts and their access keys. Every row, file and token belongs to an account; a key speaks for exactly one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Account:
    id: str  #: 12 digits
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class AccessKey:
    key_id: str  #: `AKIA` and 16 of A-Z2-7
    secret: str = field(repr=False)  #: 40 characters
    account: str  #: 12 digits
    name: str = "default"  #: of the user that the key stands for
    policy: str | None = None  #: a policy document; None: everything in its account
    created_at_ms: int = 0

    @property
    def principal(self) -> str:
        """The ARN that messages and conditions name."""
        return f"arn:aws:iam::{self.account}:user/{self.name}"


def user_id(key_id: str) -> str:
    """The unique id of the user that a key stands for, in IAM's form."""
    return "AIDA" + key_id[4:]


#: The key of that id, or None when there is none (any more).
KeyLookup = Callable[[str], Awaitable[AccessKey | None]]
