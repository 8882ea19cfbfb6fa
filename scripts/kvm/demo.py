"""`make demo` inside the nested machine: on KVM or not at all, with the example's layers there already.

The service is started here: the demo asks for it by starting the CLI again and again, which takes seconds each inside.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.kvm import say
from scripts.kvm.inside import LAYERS
from tests.waiting import until

STATE = Path("/demo")
REKINDLE = str(Path(sys.executable).with_name("rekindle"))
READY_S = 120.0
CONFIGURATION = """\
listen = "127.0.0.1:7070"
[build]
trust = "operator"
[machine]
accel = "kvm"
probe_s = 600
[artifacts]
listen = "127.0.0.1:7071"
"""


def main() -> int:
    (STATE / "accounts").mkdir(mode=0o700, parents=True)
    (STATE / "rekindle.toml").write_text(CONFIGURATION)
    subprocess.run(["cp", "-a", str(LAYERS), str(STATE / "accounts/000000000000")], check=True)
    with (STATE / "serve.log").open("wb") as log:
        service = subprocess.Popen([REKINDLE, "--state", str(STATE), "serve"], stdout=log, stderr=log)
    try:
        until(lambda: service.poll() is not None or ": ready" in _log(), READY_S, "the service is ready")
        if "accelerator kvm" not in _log():
            say(f"the service does not use KVM:\n{_log()[-4000:]}")
            return 1
        code = subprocess.run([sys.executable, "-m", "examples.demo", "--state", str(STATE)], check=False).returncode
        if code != 0:
            say("\n".join([line for line in _log().splitlines() if "rekindle.api" not in line][-60:]))
            subprocess.run([REKINDLE, "--state", str(STATE), "events"], check=False)
        return code
    finally:
        subprocess.run([REKINDLE, "--state", str(STATE), "down"], check=False)
        service.kill()
        service.wait()


def _log() -> str:
    return (STATE / "serve.log").read_text(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
