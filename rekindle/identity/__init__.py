"""What makes one state folder itself: its CA, its server certificate, its token key, and the files its clients read.

Made at the first start, kept afterwards; every file 0600, every folder 0700, every write whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rekindle.clock import Clock
from rekindle.config import Config
from rekindle.identity import ca, keys
from rekindle.identity.private import folder
from rekindle.identity.profile import write_client_files
from rekindle.seal import TokenKey

__all__ = ["Identity", "ensure", "write_client_files"]


@dataclass(frozen=True, slots=True)
class Identity:
    ca_pem: Path
    server_pem: Path
    server_key: Path
    token_key: TokenKey


def ensure(config: Config, clock: Clock) -> Identity:
    """Make what is missing, renew what runs out, keep the rest. Can be repeated at any time.

    Raises Invalid for a key file that cannot be read as one: it is never replaced silently, tokens would die with it.
    """
    folder(config.state)
    files = ca.ensure(folder(config.state / "ca"), domain=config.ingress.domain, now_ms=clock())
    token_key = keys.ensure_token_key(folder(config.state / "keys") / "token.json")
    return Identity(files.ca_pem, files.server_pem, files.server_key, token_key)
