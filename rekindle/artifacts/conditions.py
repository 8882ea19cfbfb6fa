"""Conditions of a write, judged in the transaction that makes it. S3: "Conditional requests" in its user guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from rekindle.artifacts.errors import S3Error


class Tagged(Protocol):
    @property
    def etag(self) -> str: ...


#: Judges what the key holds before the write. Raises S3Error.
Condition = Callable[[Tagged | None], None]


def matches(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/").strip('"') for part in header.split(","))


def of_write(headers: Mapping[str, str]) -> Condition:
    """`If-None-Match: *`: the key must hold nothing. `If-Match`: it must hold this content, 404 when it holds none."""
    wanted, absent = headers.get("if-match"), "if-none-match" in headers

    def judge(held: Tagged | None) -> None:
        if absent and held is not None:
            raise S3Error("PreconditionFailed", Condition="If-None-Match")
        if wanted is None:
            return
        if held is None:
            raise S3Error("NoSuchKey")
        if not matches(wanted, held.etag):
            raise S3Error("PreconditionFailed", Condition="If-Match")

    return judge
