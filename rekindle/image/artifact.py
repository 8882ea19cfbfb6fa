"""The code artifact: a zip in S3, fetched and unpacked as a build context. Every byte of it is untrusted."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from rekindle.core.errors import BuildFailed
from rekindle.image.archive import Limits, disk_full, still_wanted, unpack

_CHUNK_BYTES = 1 << 20

_S3_CODES = {
    "NoSuchKey": "S3_NO_SUCH_KEY",
    "NoSuchBucket": "S3_NO_SUCH_BUCKET",
    "InvalidObjectState": "S3_INVALID_OBJECT",
    "PermanentRedirect": "S3_CROSS_REGION_ACCESS_DENIED",
    "AuthorizationHeaderMalformed": "S3_CROSS_REGION_ACCESS_DENIED",
}
_S3_STATUS_CODES = {401: "S3_ACCESS_DENIED", 403: "S3_ACCESS_DENIED", 404: "S3_NO_SUCH_KEY"}


async def fetch(s3: Any, uri: str, into: Path, limits: Limits) -> Path:
    """Download `uri` (s3://bucket/key) with the boto3 client `s3` and unpack it; returns the context folder.

    `into` is made, and emptied first, so the call can be repeated. Raises BuildFailed with an S3_*, ARCHIVE_* or
    DISK_STORAGE_FULL code; after that, and after a cancellation, `into` is gone.
    """
    cancelled = threading.Event()
    worker = asyncio.get_running_loop().run_in_executor(None, _fetch, s3, uri, into, limits, cancelled.is_set)
    try:
        return await asyncio.shield(worker)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([worker])  # a chunk at most: the thread must not write into a folder that is being removed
        shutil.rmtree(into, ignore_errors=True)
        raise


def _fetch(s3: Any, uri: str, into: Path, limits: Limits, cancelled: Callable[[], bool]) -> Path:
    bucket, key = split_uri(uri)
    archive, context = into / "artifact.zip", into / "context"
    shutil.rmtree(into, ignore_errors=True)
    try:
        with disk_full(f"unpacking {uri}"):
            into.mkdir(parents=True)
            _download(s3, bucket, key, archive, limits, cancelled)
            unpack(archive, context, limits, cancelled=cancelled)
            archive.unlink()
    except (BuildFailed, OSError):
        shutil.rmtree(into, ignore_errors=True)
        raise
    return context


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` as (bucket, key). Raises BuildFailed(S3_INVALID_OBJECT)."""
    parts = urlsplit(uri, allow_fragments=False)
    key = parts.path.removeprefix("/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise BuildFailed("S3_INVALID_OBJECT", f"Code artifact '{uri}' must be s3://BUCKET/KEY")
    return parts.netloc, key


def _download(s3: Any, bucket: str, key: str, archive: Path, limits: Limits, cancelled: Callable[[], bool]) -> None:
    where = f"s3://{bucket}/{key}"
    try:
        body = s3.get_object(Bucket=bucket, Key=key)["Body"]
        with body, archive.open("wb") as out:
            for chunk in body.iter_chunks(_CHUNK_BYTES):
                out.write(chunk)
                still_wanted(cancelled)
                if out.tell() > limits.max_bytes:
                    raise BuildFailed(
                        "ARCHIVE_INVALID", f"Code artifact {where} is larger than {limits.max_bytes} bytes"
                    )
    except ClientError as err:
        raise BuildFailed(_s3_code(err), f"Code artifact {where} cannot be read: {_s3_reason(err)}") from err
    except BotoCoreError as err:
        message = f"Code artifact {where} cannot be read: the S3 endpoint did not answer ({type(err).__name__})"
        raise BuildFailed("INTERNAL_PLATFORM_ERROR", message) from err


def _s3_code(err: ClientError) -> str:
    status = err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = err.response.get("Error", {}).get("Code", "")
    return _S3_CODES.get(code) or _S3_STATUS_CODES.get(status, "S3_INVALID_OBJECT")


def _s3_reason(err: ClientError) -> str:
    error = err.response.get("Error", {})
    return f"{error.get('Code', 'unknown')} ({error.get('Message', 'no message')})"
