"""Tags of images and connectors: what may be set, beyond what the model says of one key or value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rekindle.core.errors import Invalid

MOST = 50  #: AWS's limit for one resource
RESERVED = "aws:"


def check(tags: Mapping[str, str]) -> Mapping[str, str]:
    """`tags` when a resource may have them all. Raises Invalid."""
    reserved = next((key for key in tags if key.lower().startswith(RESERVED)), None)
    if reserved is not None:
        raise Invalid(f"Tag key '{reserved}' is reserved: keys that begin with '{RESERVED}' are AWS's own")
    if len(tags) > MOST:
        raise Invalid(f"A resource has at most {MOST} tags; this would make {len(tags)}")
    return tags


def changed(tags: Mapping[str, str], add: Mapping[str, str], remove: Iterable[str]) -> Mapping[str, str]:
    """`tags` with others set and some taken away. Raises Invalid as `check`."""
    gone = set(remove)
    return check({key: value for key, value in (dict(tags) | dict(add)).items() if key not in gone})
