"""Seals endpoint tokens: compact JWE, `dir`, A256GCM (docs/contracts.md §5; RFC 7516 §3.1, RFC 7518 §5.3)."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rekindle.core.token import Claims


@dataclass(frozen=True, slots=True)
class TokenKey:
    """`secret` is 32 bytes; `kid` names it in the token header."""

    kid: str
    secret: bytes


def seal(key: TokenKey, claims: Claims) -> str:
    """A compact JWE of `claims`, legal in an HTTP header and a WebSocket subprotocol."""
    header = _b64(json.dumps({"kid": key.kid, "alg": "dir", "enc": "A256GCM"}, separators=(",", ":")).encode())
    iv = os.urandom(12)
    sealed = AESGCM(key.secret).encrypt(iv, claims.to_json(), header.encode())
    return ".".join((header, "", _b64(iv), _b64(sealed[:-16]), _b64(sealed[-16:])))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
