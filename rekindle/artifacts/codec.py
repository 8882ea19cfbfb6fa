"""S3's XML, both ways. Documents are small trees of (name, content) pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TypeAlias
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from rekindle.artifacts.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
Content: TypeAlias = "str | int | Sequence[Node]"
Node: TypeAlias = "tuple[str, Content]"

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f]")


def document(name: str, content: Content, *, namespace: bool = True) -> bytes:
    opening = f'{name} xmlns="{NAMESPACE}"' if namespace else name
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{opening}>{_render(content)}</{name}>'.encode()


def _render(content: Content) -> str:
    if isinstance(content, str):
        return _CONTROL.sub(lambda match: f"&#x{ord(match[0]):x};", escape(content))
    if isinstance(content, int):
        return str(content)
    return "".join(f"<{name}>{_render(inner)}</{name}>" for name, inner in content)


def parse(body: bytes, root: str) -> ElementTree.Element:
    """The document's root, namespaces taken off. Raises S3Error (MalformedXML) for anything but a `root` document.

    A DOCTYPE is refused before any parsing, and UTF-16 with it, in which these bytes do not find one: no entity is ever
    expanded.
    """
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body or b"\0" in body:
        raise S3Error("MalformedXML")
    try:
        found = ElementTree.fromstring(body)  # noqa: S314 - no DOCTYPE, bounded size
    except ElementTree.ParseError as err:
        raise S3Error("MalformedXML") from err
    for element in found.iter():
        element.tag = element.tag.rpartition("}")[2]
    if found.tag != root:
        raise S3Error("MalformedXML")
    return found


def text(element: ElementTree.Element, name: str) -> str:
    """The text of the child `name`. Raises S3Error when there is no such child."""
    value = element.findtext(name)
    if value is None:
        raise S3Error("MalformedXML")
    return value


def optional(pairs: Iterable[tuple[str, Content | None]]) -> list[Node]:
    """The pairs whose content is not None."""
    return [(name, content) for name, content in pairs if content is not None]


def iso(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def http_date(at_ms: int) -> str:
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC), usegmt=True)
