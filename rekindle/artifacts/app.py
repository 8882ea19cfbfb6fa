"""The ASGI app: one table of operations, one edge that turns every error into S3's XML.

authenticate -> route -> operate -> answer
"""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rekindle.artifacts import authorize, buckets, codec, multipart, objects, wire
from rekindle.artifacts.body import Incoming, Receive
from rekindle.artifacts.errors import Disconnected, S3Error
from rekindle.artifacts.limits import Limits
from rekindle.artifacts.service import Service, open_service
from rekindle.artifacts.wire import Reply, Request, Stream
from rekindle.clock import Clock
from rekindle.core.account import KeyLookup

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Operation(Protocol):
    """An operation's name is what policies are asked by (`authorize.ACTIONS`)."""

    __name__: str

    def __call__(self, service: Service, request: Request, /) -> Awaitable[Reply]: ...


log = logging.getLogger(__name__)

#: Query parameters that make a request another operation; every one that the table below lacks answers 501.
_SUBRESOURCES = frozenset(
    """
    accelerate acl analytics attributes cors delete encryption intelligent-tiering inventory legal-hold lifecycle
    location logging metadataConfiguration metadataTable metrics notification object-lock ownershipControls
    partNumber policy policyStatus publicAccessBlock renameObject replication requestPayment restore retention
    select session tagging torrent uploadId uploads versionId versioning versions website
    """.split()  # noqa: SIM905 - forty lines otherwise
)

#: (method, what the path names, subresources) -> operation. `copy` is a PUT with x-amz-copy-source.
_OPERATIONS: dict[tuple[str, str, frozenset[str]], Operation] = {
    ("GET", "service", frozenset()): buckets.list_buckets,
    ("PUT", "bucket", frozenset()): buckets.create_bucket,
    ("HEAD", "bucket", frozenset()): buckets.head_bucket,
    ("DELETE", "bucket", frozenset()): buckets.delete_bucket,
    ("GET", "bucket", frozenset({"location"})): buckets.get_location,
    ("GET", "bucket", frozenset()): buckets.list_objects,
    ("GET v2", "bucket", frozenset()): buckets.list_objects_v2,
    ("POST", "bucket", frozenset({"delete"})): objects.delete_objects,
    ("GET", "bucket", frozenset({"uploads"})): multipart.list_uploads,
    ("PUT", "object", frozenset()): objects.put_object,
    ("GET", "object", frozenset()): objects.get_object,
    ("HEAD", "object", frozenset()): objects.head_object,
    ("DELETE", "object", frozenset()): objects.delete_object,
    ("copy", "object", frozenset()): objects.copy_object,
    ("POST", "object", frozenset({"uploads"})): multipart.create,
    ("PUT", "object", frozenset({"uploadId", "partNumber"})): multipart.upload_part,
    ("copy", "object", frozenset({"uploadId", "partNumber"})): multipart.upload_part_copy,
    ("POST", "object", frozenset({"uploadId"})): multipart.complete,
    ("DELETE", "object", frozenset({"uploadId"})): multipart.abort,
    ("GET", "object", frozenset({"uploadId"})): multipart.list_parts,
}


class App:
    """The ASGI app of one open store. Close it when its server has stopped, unless the server runs its lifespan."""

    def __init__(self, service: Service, keys: KeyLookup) -> None:
        self._service = service
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await _serve(self._service, self._keys, scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # startup: the store is open already
        await send({"type": "lifespan.startup.complete"})
        await receive()  # shutdown
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """Let another process, or another app in this one, take the folder."""
        self._service.close()


def make_app(root: Path, keys: KeyLookup, clock: Clock, limits: Limits | None = None) -> App:
    """The store in the folder `root` (made if absent), for one event loop.

    Raises Refused while another process has the folder.
    """
    return App(open_service(root, clock, limits or Limits()), keys)


async def _serve(service: Service, keys: KeyLookup, scope: Scope, receive: Receive, send: Send) -> None:
    request_id = uuid.uuid4().hex[:16].upper()
    body = Incoming(receive)
    try:
        reply = await _answer(service, keys, scope, body, request_id)
        # Nothing was awaited since the segments were looked up, so no deletion can have come in between.
        with service.blobs.pinned(reply.segments):
            reply = await _finish_body(service, scope, body, reply)
            await _send(service, scope, reply, request_id, send)
    except Disconnected:
        log.info("%s: the client went away during its %s %s", request_id, scope["method"], scope["path"])


async def _answer(service: Service, keys: KeyLookup, scope: Scope, body: Incoming, request_id: str) -> Reply:
    try:
        request = await wire.authenticated(scope, body, keys, service.clock)
        operation = _operation(request)
        authorize.check_operation(operation.__name__, request)
        return await operation(service, request)
    except S3Error as err:
        return _error(err, scope["path"], request_id)
    except Disconnected:
        raise
    except Exception as err:  # the edge: a bug or a broken disk is logged and answered, without its text
        log.exception("%s: %s %s", request_id, scope["method"], scope["path"])
        full = isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT)
        return _error(S3Error("StorageFull" if full else "InternalError"), scope["path"], request_id)


def _operation(request: Request) -> Operation:
    level = "object" if request.key else "bucket" if request.bucket else "service"
    subresources = _SUBRESOURCES.intersection(request.query)
    method = request.method
    if method == "PUT" and "x-amz-copy-source" in request.headers:
        method = "copy"
    if method == "GET" and request.query.get("list-type") == "2":
        method = "GET v2"
    try:
        return _OPERATIONS[method, level, subresources]
    except KeyError:
        raise S3Error("NotImplemented") from None


def _error(err: S3Error, resource: str, request_id: str) -> Reply:
    content = [
        ("Code", err.code),
        ("Message", err.message),
        *err.details.items(),
        ("Resource", resource),
        ("RequestId", request_id),
        ("HostId", "rekindle"),
    ]
    if err.status == 304:
        return Reply(304)
    return Reply(err.status, {"content-type": "application/xml"}, codec.document("Error", content, namespace=False))


async def _finish_body(service: Service, scope: Scope, body: Incoming, reply: Reply) -> Reply:
    """`reply`, which closes the connection if the request's body was not read to its end.

    A client that waits for `100 Continue` must not be told to go on; a small body is read so that the connection can
    be kept; a large one is not worth it.
    """
    if not body.ended and not any(name == b"expect" for name, _ in scope["headers"]):
        await body.drain(service.limits.drain_bytes)
    if body.ended:
        return reply
    return replace(reply, headers={**reply.headers, "connection": "close"})


async def _send(service: Service, scope: Scope, reply: Reply, request_id: str, send: Send) -> None:
    headers = {
        "x-amz-request-id": request_id,
        "x-amz-id-2": "rekindle",
        "content-length": str(reply.size_bytes),
        **reply.headers,
    }
    if reply.status in (204, 304):
        del headers["content-length"]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    if scope["method"] != "HEAD" and isinstance(reply.body, Stream):
        await _send_stream(service, reply.body, send)
        return
    body = b"" if scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.body", "body": body})


async def _send_stream(service: Service, stream: Stream, send: Send) -> None:
    async for data in service.blobs.read(stream.segments, stream.first, stream.size_bytes):
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
