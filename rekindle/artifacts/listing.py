"""Prefix, delimiter and continuation: pure, over anything that yields keys in order."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.index import Object

_BATCH = 256
#: Objects whose key is the first argument or later, in order, at most so many.
ObjectsFrom = Callable[[str, int], Sequence[Object]]


@dataclass(frozen=True, slots=True)
class Page:
    objects: tuple[Object, ...]
    prefixes: tuple[str, ...]
    next_first: str | None  #: where the next page starts: a key or later; None when this was the last
    last: str  #: the last key or common prefix of this page


def after(key: str) -> str:
    """The smallest key that is greater than `key`."""
    return key + "\0"


def after_prefix(prefix: str) -> str | None:
    """The smallest text that is greater than everything that begins with `prefix`; None when nothing is."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # surrogates are no characters


def page(objects_from: ObjectsFrom, *, prefix: str, delimiter: str, first: str, limit: int) -> Page:
    """At most `limit` keys and common prefixes together, from `first` on."""
    if limit == 0:
        return Page((), (), None, "")
    objects: list[Object] = []
    prefixes: list[str] = []
    last = ""
    cursor: str | None = max(first, prefix)
    while cursor is not None:
        batch = objects_from(cursor, _BATCH)
        cursor = after(batch[-1].key) if len(batch) == _BATCH else None
        for item in batch:
            if not item.key.startswith(prefix):
                return Page(tuple(objects), tuple(prefixes), None, last)
            if prefixes and delimiter and item.key.startswith(prefixes[-1]):
                continue
            if len(objects) + len(prefixes) == limit:
                return Page(tuple(objects), tuple(prefixes), item.key, last)
            common = _common_prefix(item.key, prefix, delimiter)
            if common is None:
                objects.append(item)
                last = item.key
                continue
            prefixes.append(common)
            last = common
            cursor = after_prefix(common)  # skip what it stands for
            break
    return Page(tuple(objects), tuple(prefixes), None, last)


def _common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    end = key.find(delimiter, len(prefix))
    return None if end < 0 else key[: end + len(delimiter)]


def token(first: str) -> str:
    """A continuation token, opaque to clients."""
    return base64.urlsafe_b64encode(b"1" + first.encode()).decode()


def first_of(token_text: str) -> str:
    """Where a token says to go on. Raises S3Error for one that `token` did not make."""
    try:
        kept = base64.b64decode(token_text, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        kept = ""
    if not kept.startswith("1"):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    return kept[1:]
