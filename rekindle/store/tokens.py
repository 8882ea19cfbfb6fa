"""clientToken: the same request again within a day finds what the first one made (spec §1.9).

AWS keeps the token of an image for ever, so that a replay wedges a new image; here it ends after a day, or with what
it made.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.core.errors import Refused
from rekindle.store.database import Database

LIFE_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that makes something: whose, and with which token. Without a token nothing is remembered."""

    operation: str
    account: str
    region: str
    token: str | None
    digest: str  #: equal for requests with equal parameters


def earlier(db: Database, asked: Asked, now_ms: int) -> str | None:
    """The subject that this token made, or None when it is new.

    Raises Refused when the token was used with other parameters.
    """
    if asked.token is None:
        return None
    row = db.one("client_token", **_key(asked), since_ms=now_ms - LIFE_MS)
    if row is None:
        return None
    if row["digest"] != asked.digest:
        raise Refused("The client token was used before with other parameters.")
    return str(row["subject"])


def remember(db: Database, asked: Asked, subject: str, now_ms: int) -> None:
    """Within the transaction that makes `subject`. The token is forgotten with its subject, or after a day."""
    if asked.token is not None:
        db.run("forget_old_client_tokens", before_ms=now_ms - LIFE_MS)
        db.run("add_client_token", **_key(asked), digest=asked.digest, subject=subject, now_ms=now_ms)


def _key(asked: Asked) -> dict[str, str | None]:
    return {"account": asked.account, "region": asked.region, "operation": asked.operation, "token": asked.token}
