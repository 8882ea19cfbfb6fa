"""Tokens sealed here are opened by the relay; tests/golden/tokens.json is read by both sides' tests.

`python -m tests.test_seal` writes that file anew (random keys and IVs: only when the format changes).
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rekindle.core.token import ALL_PORTS, Claims
from rekindle.seal import TokenKey, seal

GOLDEN = Path(__file__).parent / "golden" / "tokens.json"
VM = "microvm-12345678-1234-1234-1234-123456789abc"
RFC7230_TOKEN = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
CLAIMS = Claims(vm_id=VM, generation=1, ports=((8080, 8080), (9000, 9001)), expires_at_s=1_900_000_000)
EVERY_PORT = Claims(vm_id=VM, generation=7, ports=(ALL_PORTS,), expires_at_s=1)
SHELL = Claims(vm_id=VM, generation=2, ports=(ALL_PORTS,), expires_at_s=1_900_000_000, use="shell")


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _open(keys: dict[str, bytes], token: str) -> dict[str, Any]:
    """An independent reading of RFC 7516 for `dir` and A256GCM."""
    header, wrapped, iv, sealed, tag = token.split(".")
    fields = json.loads(_decode(header))
    if wrapped or fields.get("alg") != "dir" or fields.get("enc") != "A256GCM" or len(_decode(tag)) != 16:
        raise ValueError("not dir with A256GCM")
    secret = keys[fields["kid"]]
    claims: dict[str, Any] = json.loads(
        AESGCM(secret).decrypt(_decode(iv), _decode(sealed) + _decode(tag), header.encode())
    )
    return {"vm": claims["vm"], "exp": claims["exp"], **claims}


def _golden() -> tuple[dict[str, bytes], dict[str, Any]]:
    file = json.loads(GOLDEN.read_text())
    return {kid: base64.b64decode(text) for kid, text in file["keys"].items()}, file


def test_sealed_tokens_open_to_their_claims() -> None:
    key = TokenKey(kid=str(uuid.uuid4()), secret=os.urandom(32))
    for claims in (CLAIMS, EVERY_PORT, SHELL):
        assert _open({key.kid: key.secret}, seal(key, claims)) == json.loads(claims.to_json())


def test_tokens_are_legal_in_headers_and_never_repeat() -> None:
    key = TokenKey(kid=str(uuid.uuid4()), secret=os.urandom(32))
    tokens = {seal(key, CLAIMS) for _ in range(20)}
    assert len(tokens) == 20
    assert all(set(token) <= RFC7230_TOKEN for token in tokens)


def test_golden_good_tokens() -> None:
    keys, file = _golden()
    for case in file["good"]:
        assert _open(keys, case["token"]) == case["claims"], case["name"]


def test_golden_bad_tokens() -> None:
    keys, file = _golden()
    for case in file["bad"]:
        with pytest.raises((InvalidTag, ValueError, KeyError, TypeError, AttributeError)):
            _open(keys, case["token"])


def _sealed(key: TokenKey, header: dict[str, str], plain: bytes, *, iv_bytes: int = 12) -> str:
    """A token with any header and content, for the bad ones."""
    head, iv = _encode(json.dumps(header).encode()), os.urandom(iv_bytes)
    sealed = AESGCM(key.secret).encrypt(iv, plain, head.encode())
    return ".".join((head, "", _encode(iv), _encode(sealed[:-16]), _encode(sealed[-16:])))


def _bad(key: TokenKey, other: TokenKey) -> Iterator[tuple[str, str]]:
    good = seal(key, CLAIMS)
    parts, right = good.split("."), {"kid": key.kid, "alg": "dir", "enc": "A256GCM"}
    yield "empty", ""
    yield "not a token", "Bearer abc"
    yield "four parts", ".".join(parts[:4])
    yield "six parts", good + "."
    yield "a wrapped key", ".".join((parts[0], "AAAA", *parts[2:]))
    yield "no base64 in the header", ".".join(("!", *parts[1:]))
    yield "header is no object", ".".join((_encode(b"[]"), *parts[1:]))
    yield "another token's body", ".".join((*parts[:3], seal(key, EVERY_PORT).split(".")[3], parts[4]))
    yield "a short tag", ".".join((*parts[:4], _encode(_decode(parts[4])[:12])))
    yield "no tag", ".".join((*parts[:4], ""))
    yield "no iv", ".".join((*parts[:2], "", *parts[3:]))
    yield "an unknown key", seal(other, CLAIMS)
    yield "another key under this name", seal(TokenKey(key.kid, other.secret), CLAIMS)
    yield "algorithm none", _sealed(key, {**right, "alg": "none"}, CLAIMS.to_json())
    yield "another cipher", _sealed(key, {**right, "enc": "A128GCM"}, CLAIMS.to_json())
    yield "claims are no JSON", _sealed(key, right, b"vm")
    yield "claims without vm", _sealed(key, right, b'{"gen":1,"ports":[[1,65535]],"exp":1900000000,"use":"app"}')
    yield "claims without exp", _sealed(key, right, b'{"vm":"x","gen":1,"ports":[[1,65535]],"use":"app"}')


def _write() -> None:
    key, other = (TokenKey(str(uuid.uuid4()), os.urandom(32)) for _ in range(2))
    good = {"two ranges": CLAIMS, "all ports, expired": EVERY_PORT, "shell": SHELL}
    file = {
        "keys": {key.kid: base64.b64encode(key.secret).decode()},
        "good": [
            {"name": name, "token": seal(key, claims), "claims": json.loads(claims.to_json())}
            for name, claims in good.items()
        ],
        "bad": [{"name": name, "token": token} for name, token in _bad(key, other)],
    }
    GOLDEN.write_text(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    _write()
