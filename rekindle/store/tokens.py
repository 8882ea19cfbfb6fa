"""clientToken: the same request again finds what the first one made (spec §1.9)."""

from __future__ import annotations

from rekindle.core.errors import Refused
from rekindle.store.database import Database


def earlier(db: Database, operation: str, account: str, region: str, token: str | None, digest: str) -> str | None:
    """The subject that this token made, or None when it is new.

    Raises Refused when the token was used with other parameters.
    """
    if token is None:
        return None
    row = db.one("client_token", account=account, region=region, operation=operation, token=token)
    if row is None:
        return None
    if row["digest"] != digest:
        raise Refused("The client token was used before with other parameters.")
    return str(row["subject"])


def remember(
    db: Database, operation: str, account: str, region: str, token: str | None, digest: str, subject: str
) -> None:
    """Within the transaction that makes `subject`. The token is forgotten with its subject."""
    if token is not None:
        db.run(
            "add_client_token",
            account=account,
            region=region,
            operation=operation,
            token=token,
            digest=digest,
            subject=subject,
        )
