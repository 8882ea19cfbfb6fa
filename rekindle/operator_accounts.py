"""Accounts and access keys on the operator's API. A secret is shown once, in the answer that made it."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rekindle.core.account import AccessKey
from rekindle.core.errors import Invalid
from rekindle.identity.keys import new_access_key
from rekindle.store.db import Store

#: After a key is gone: what clients of this machine read must not name it.
Renew = Callable[[], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Accounts:
    """`own`: the service's own account, which always keeps a key."""

    store: Store
    own: str
    renew: Renew

    def routes(self) -> list[Route]:
        return [
            Route("/v1/accounts", self.list_accounts),
            Route("/v1/accounts", self.create_account, methods=["POST"]),
            Route("/v1/keys", self.list_keys),
            Route("/v1/keys", self.create_key, methods=["POST"]),
            Route("/v1/keys/{id}", self.remove_key, methods=["DELETE"]),
        ]

    async def list_accounts(self, _: Request) -> Response:
        keys = await self.store.access_keys()
        items = [
            dataclasses.asdict(one) | {"keys": sum(key.account == one.id for key in keys)}
            for one in await self.store.all_accounts()
        ]
        return JSONResponse({"items": items})

    async def create_account(self, request: Request) -> Response:
        """`{"name", "id"?}`; without an id twelve random digits."""
        given = await _body(request, {"name", "id"})
        account = given.get("id") or str(secrets.randbelow(9 * 10**11) + 10**11)
        if not given.get("name"):
            raise Invalid("name must be given")
        if account in await self.store.accounts():
            raise Invalid(f"Account {account} exists already")
        await self.store.add_account(account, given["name"])
        return JSONResponse({"id": account, "name": given["name"]})

    async def list_keys(self, _: Request) -> Response:
        return JSONResponse({"items": [_shown(key) for key in await self.store.access_keys()]})

    async def create_key(self, request: Request) -> Response:
        """`{"account"?, "name"?, "policy"?}`; the policy is a document as text."""
        given = await _body(request, {"account", "name", "policy"})
        key_id, secret = new_access_key()
        account, name = given.get("account") or self.own, given.get("name") or "default"
        key = await self.store.add_access_key(key_id, secret, account, name, given.get("policy"))
        return JSONResponse(_shown(key) | {"secret": key.secret})

    async def remove_key(self, request: Request) -> Response:
        await self.store.remove_access_key(request.path_params["id"], keep_one_of=self.own)
        await self.renew()
        return JSONResponse({})


def _shown(key: AccessKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "account": key.account,
        "name": key.name,
        "principal": key.principal,
        "created_at_ms": key.created_at_ms,
        "policy": None if key.policy is None else json.loads(key.policy),
    }


async def _body(request: Request, known: set[str]) -> Mapping[str, str]:
    """A JSON structure of texts. Raises Invalid."""
    try:
        given = json.loads(await request.body() or b"{}")
    except ValueError:
        raise Invalid("The body must be JSON") from None
    if not isinstance(given, dict) or not set(given) <= known:
        raise Invalid(f"The body must be a structure of {', '.join(sorted(known))}")
    if not all(value is None or isinstance(value, str) for value in given.values()):
        raise Invalid("Every member must be a text")
    return given
