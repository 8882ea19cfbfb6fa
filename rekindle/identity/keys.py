"""Secrets: access keys for clients, the key that seals endpoint tokens."""

from __future__ import annotations

import base64
import json
import secrets
import string
import uuid
from pathlib import Path

from rekindle.core.errors import Invalid
from rekindle.identity import private
from rekindle.seal import TokenKey

_ID_ALPHABET = string.ascii_uppercase + "234567"
_SECRET_ALPHABET = string.ascii_letters + string.digits + "+/"
_TOKEN_KEY_BYTES = 32


def new_access_key() -> tuple[str, str]:
    """A fresh (id, secret) in AWS's form: `AKIA` and 16 characters; 40 characters, 240 bits."""
    key_id = "AKIA" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(16))
    return key_id, "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(40))


def ensure_token_key(path: Path) -> TokenKey:
    """The key kept in `path`, made if absent. Raises Invalid for a file that holds no such key."""
    if path.exists():
        return _read(path)
    key = TokenKey(str(uuid.uuid4()), secrets.token_bytes(_TOKEN_KEY_BYTES))
    kept = {"kid": key.kid, "key": base64.b64encode(key.secret).decode()}
    private.write(path, json.dumps(kept).encode() + b"\n")
    return key


def _read(path: Path) -> TokenKey:
    try:
        kept = json.loads(path.read_bytes())
        key = TokenKey(kept["kid"], base64.b64decode(kept["key"], validate=True))
    except (ValueError, KeyError, TypeError) as err:
        raise Invalid(f'{path}: must hold {{"kid": ..., "key": base64}}') from err
    if len(key.secret) != _TOKEN_KEY_BYTES:
        raise Invalid(f"{path}: key must have {_TOKEN_KEY_BYTES} bytes, not {len(key.secret)}")
    return key
