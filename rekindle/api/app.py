"""The API as an ASGI app. `Api.answer` is the whole chain: read down to see when what is checked."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rekindle.api import codec, errors, front, operations, sigv4
from rekindle.api.authorize import authorize
from rekindle.api.context import Caller, Engine, Parsed, Raw, Reply, Routed, Signed, Tools
from rekindle.api.errors import TooLarge
from rekindle.api.model import SIGNING_NAME, Operation
from rekindle.api.operations_microvms import MAX_DURATION
from rekindle.api.router import route
from rekindle.api.throttle import Throttle
from rekindle.api.validate import validate
from rekindle.clock import Clock
from rekindle.config import Config
from rekindle.core import policy as policies
from rekindle.core.arrival import arrival
from rekindle.core.errors import Denied, RekindleError
from rekindle.store.db import Store

MAX_BODY_BYTES = 6 * 1024 * 1024
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_log = logging.getLogger(__name__)


def make_app(store: Store, engine: Engine, config: Config, clock: Clock, *, host_cpus: int | None = None) -> ASGIApp:
    """`host_cpus`: what a microVM may have at most; None: what this process may use."""
    cpus = host_cpus or len(os.sched_getaffinity(0))
    tools = Tools(store=store, engine=engine, config=config, clock=clock, host_cpus=cpus)
    return Edge(Api(tools))


class Api:
    """A request in, an answer out; RekindleError never leaves it, anything else that does is a bug."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self._throttle = Throttle(tools.config.quotas, tools.clock)

    async def answer(self, raw: Raw) -> Reply:
        foreign = front.asked(raw)
        if foreign is not None:
            return await front.answer(raw, foreign, self.caller)
        operation: Operation | None = None
        try:
            signed = await self.sign(raw)
            routed = self.route(signed)
            operation = routed.operation
            await self._throttle.admit(routed.caller.account, operation.name)
            parsed = self.parse(routed)
            await authorize(self.tools, parsed)
            return await operations.perform(self.tools, parsed)
        except RekindleError as err:
            _log.info("%s %s: %s: %s", raw.request_id, operation and operation.name, type(err).__name__, err.message)
            return errors.refusal(err, operation)

    async def sign(self, raw: Raw) -> Signed:
        """Who calls. Raises Denied."""
        return Signed(raw, await self.caller(raw, SIGNING_NAME))

    async def caller(self, raw: Raw, service: str) -> Caller:
        """Who signed `raw` for a service. Raises Denied."""
        request = sigv4.SignedRequest(
            raw.method, raw.path, raw.query, raw.headers, hashlib.sha256(raw.body).hexdigest()
        )
        key = await self.tools.store.access_key(sigv4.claimed_key_id(request, service=service))
        identity = sigv4.verify(
            request,
            lambda key_id: key.secret if key is not None and key.key_id == key_id else None,
            service=service,
            now_ms=self.tools.clock(),
        )
        if key is None or _REGION.fullmatch(identity.region) is None:
            raise Denied(f"'{identity.region}' is not a region")
        policy = None if key.policy is None else policies.parse(key.policy)
        return Caller(key.account, identity.region, key.key_id, key.principal, policy, raw.came)

    def route(self, signed: Signed) -> Routed:
        """Which operation. Raises UnknownOperation, Malformed, or Unfinished for one that we do not have yet."""
        operation, labels = route(signed.raw.method, signed.raw.path)
        operations.find(operation)
        return Routed(signed.raw, signed.caller, operation, labels)

    def parse(self, routed: Routed) -> Parsed:
        """What exactly is asked. Raises Malformed or Invalid."""
        model = routed.operation.model
        params = codec.parse(model, routed.labels, routed.raw.query, routed.raw.body)
        validate(model.input_shape, params, {MAX_DURATION: self.tools.config.lifetime.max_duration_s})
        return Parsed(routed.caller, routed.operation, params)


class Edge:
    """HTTP around `Api`; the one place of the API that catches everything."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # as ASGI has it: the server goes on without
        request_id = str(uuid.uuid4())
        try:
            reply = await self._reply(request_id, Request(scope, receive))
        except ClientDisconnect:
            return
        except Exception:  # noqa: BLE001  # the edge: a bug is logged with its request id and answered
            _log.exception("%s %s %s", request_id, scope["method"], scope["path"])
            reply = errors.internal(_asked(scope))
        _log.info("%s %s %s %d", request_id, scope["method"], scope["path"], reply.status)
        headers = {"x-amzn-requestid": request_id, "content-type": "application/json", **reply.headers}
        await Response(reply.body, reply.status, headers)(scope, receive, send)

    async def _reply(self, request_id: str, request: Request) -> Reply:
        try:
            body = await _body(request)
        except TooLarge as err:
            return errors.refusal(err, None)
        return await self._api.answer(_raw(request_id, request, body))


def _asked(scope: Scope) -> Operation | None:
    """What a request that ended in a bug was for: services spell even that error in ways of their own."""
    try:
        return route(scope["method"], scope["raw_path"].decode("latin-1"))[0]
    except RekindleError:
        return None


async def _body(request: Request) -> bytes:
    """Raises TooLarge as soon as more arrives than any operation takes, or is announced."""
    announced = request.headers.get("content-length", "0")
    too_large = TooLarge(f"Request must be smaller than {MAX_BODY_BYTES} bytes")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _raw(request_id: str, request: Request, body: bytes) -> Raw:
    """ASGI hands over bytes; latin-1 keeps each of them."""
    scope = request.scope
    return Raw(
        request_id=request_id,
        method=scope["method"],
        path=scope["raw_path"].decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        body=body,
        came=arrival(scope),
    )
