"""Pages of a list. A cursor is opaque, signed, and good only for the list that gave it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from rekindle.api import model
from rekindle.api.context import Parsed
from rekindle.core.errors import Invalid
from rekindle.store.db import Store

DEFAULT_PAGE = 10  #: not in the model (spec §1.9)
_MAC_BYTES = 32

Item = TypeVar("Item")


async def page(
    store: Store,
    call: Parsed,
    fetch: Callable[[str | None, int], Awaitable[Sequence[Item]]],
    place: Callable[[Item], str],
    show: Callable[[Item], Mapping[str, Any]],
) -> dict[str, Any]:
    """One page: `fetch(after, limit)` reads items behind a place. Raises Invalid without a text for a bad cursor."""
    key = await store.secret("cursor")  # kept, so a list may go on after a restart
    names = model.paginator(call.operation)
    size = min(call.params.get(names.limit_key, DEFAULT_PAGE), names.most)
    token = call.params.get(names.input_token)
    after = None if token is None else _open(key, call, token)
    items = await fetch(after, size + 1)
    shown = items[:size]
    more = _seal(key, call, place(shown[-1])) if len(items) > size else None
    return {names.result_key: [show(item) for item in shown], names.output_token: more}


def _scope(call: Parsed) -> list[str]:
    """Whose list, and filtered how."""
    names = model.paginator(call.operation)
    paging = (names.limit_key, names.input_token)
    filters = {name: value for name, value in call.params.items() if name not in paging}
    return [call.operation.name, call.caller.account, call.caller.region, json.dumps(filters, sort_keys=True)]


def _seal(key: bytes, call: Parsed, after: str) -> str:
    return base64.urlsafe_b64encode(_mac(key, call, after.encode()) + after.encode()).decode()


def _open(key: bytes, call: Parsed, token: str) -> str:
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:
        raise Invalid("") from None
    mac, after = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(key, call, after)):
        raise Invalid("")
    return after.decode()


def _mac(key: bytes, call: Parsed, after: bytes) -> bytes:
    return hmac.new(key, json.dumps(_scope(call)).encode() + b"\0" + after, hashlib.sha256).digest()
