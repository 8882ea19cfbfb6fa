"""The guest's messages without a relay: a client of go/cmd/bench-guest, compiled for the bench and kept warm."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from scripts.build_go import find_go

ROOT = Path(__file__).resolve().parents[1]


class Speaker:
    """Speaks to one guest at a time. Blocking; raises RuntimeError with what went wrong."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._asked = cast(IO[bytes], process.stdin)
        self._answers = cast(IO[bytes], process.stdout)

    def connect(self, run: Path) -> None:
        """Both sockets of the machine whose folder `run` it is; the guest may be paused still."""
        self._do(do="connect", **{"in": str(run / "in"), "out": str(run / "out")})

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The agent's answer, as soon as the guest is there."""
        text = "" if body is None else json.dumps(body)
        return cast(dict[str, Any], json.loads(self._ok(do="ask", method=method, path=path, body=text)))

    def get(self, port: int, path: str = "/", *, patience_s: float = 0) -> str:
        """The app's answer, through a tunnel; asked again while nothing listens there, for `patience_s`."""
        return self._ok(do="get", port=port, path=path, patience_ms=int(patience_s * 1000))

    def close(self) -> None:
        self._do(do="close")

    def _ok(self, **request: object) -> str:
        answer = self._do(**request)
        if answer["status"] != 200:
            raise RuntimeError(f"{request}: {answer}")
        return str(answer.get("body", ""))

    def _do(self, **request: object) -> dict[str, Any]:
        self._asked.write(json.dumps(request).encode() + b"\n")
        self._asked.flush()
        answer = json.loads(self._answers.readline() or b'{"error": "bench-guest ended"}')
        if "error" in answer:
            raise RuntimeError(f"{request}: {answer['error']}")
        return cast(dict[str, Any], answer)


@contextmanager
def speaking(scratch: Path) -> Iterator[Speaker]:
    """Compile bench-guest into `scratch` and run it until the block ends."""
    program = scratch / "bench-guest"
    compile_go(ROOT / "go", "./cmd/bench-guest", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Speaker(process)


def compile_go(module: Path, package: str, program: Path) -> None:
    """A static program, as scripts/build_go.py makes them. Raises CalledProcessError."""
    own = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    argv = [find_go(), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(program), package]
    subprocess.run(argv, cwd=module, env={**os.environ, **own}, check=True)
