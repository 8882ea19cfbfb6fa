"""What an endpoint token says (docs/contracts.md §5). Pure: sealing and opening is elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass

ALL_PORTS = (1, 65535)
APP, SHELL = "app", "shell"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    vm_id: str
    generation: int
    ports: tuple[tuple[int, int], ...]  #: inclusive ranges of guest ports
    expires_at_s: int  #: epoch seconds
    use: str = APP  #: or SHELL

    def to_json(self) -> bytes:
        claims = {
            "vm": self.vm_id,
            "gen": self.generation,
            "ports": [list(span) for span in self.ports],
            "exp": self.expires_at_s,
            "use": self.use,
        }
        return json.dumps(claims, separators=(",", ":")).encode()
