"""A store in a process of its own: `python -m tests.artifacts.server FOLDER [CERTIFICATE KEY]`.

Prints its port when it listens. Ends with SIGTERM, or is killed. Two accounts with a key each, and one with a policy.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from rekindle.artifacts import Limits, make_app
from rekindle.clock import wall_ms
from rekindle.core.account import AccessKey

ALICE = AccessKey("AKIAALICEAAAAAAAAAAA", "alice" * 8, "000000000000")
BOB = AccessKey("AKIABOBBBBBBBBBBBBBB", "bobby" * 8, "111111111111")
#: Alice's account, but only what lies below `open/` of any bucket, and nothing below `open/not/`.
_RULES = """{"Statement": [
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        "Resource": "arn:aws:s3:::*/open/*", "Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}},
    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::*",
        "Condition": {"StringLike": {"s3:prefix": "open/*"}}},
    {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::*/open/not/*"}
]}"""
CAROL = AccessKey("AKIACAROLLLLLLLLLLLL", "carol" * 8, ALICE.account, "carol", _RULES)
_KEYS = {key.key_id: key for key in (ALICE, BOB, CAROL)}


async def lookup(key_id: str) -> AccessKey | None:
    return _KEYS.get(key_id)


def main(folder: str, certificate: str | None = None, key: str | None = None) -> None:
    app = make_app(Path(folder), lookup, wall_ms, Limits())
    config = uvicorn.Config(
        app, log_level="warning", ssl_certfile=certificate, ssl_keyfile=key, timeout_graceful_shutdown=1
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main(*sys.argv[1:])
