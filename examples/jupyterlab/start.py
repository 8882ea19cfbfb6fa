"""JupyterLab on port 8080, and the hook that says when it is ready, on port 9000.

The server asks for no password: who has a token of the microVM's endpoint may use it, and nobody else reaches it.
"""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import urllib.error
import urllib.request

JUPYTER = (
    "jupyter",
    "lab",
    "--no-browser",
    "--ServerApp.ip=0.0.0.0",
    "--ServerApp.port=8080",
    "--ServerApp.port_retries=0",
    "--ServerApp.allow_remote_access=True",
    "--IdentityProvider.token=",
)


class Hooks(http.server.BaseHTTPRequestHandler):
    """`ready`: 200 once the page can be had, 503 before; the builder asks again."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200 if serves() else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the output is JupyterLab's."""


def serves() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8080/lab", timeout=60) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def main() -> int:
    hooks = http.server.ThreadingHTTPServer(("0.0.0.0", 9000), Hooks)
    threading.Thread(target=hooks.serve_forever, daemon=True).start()
    return subprocess.call(JUPYTER)


if __name__ == "__main__":
    sys.exit(main())
