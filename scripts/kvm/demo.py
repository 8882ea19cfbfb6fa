"""`make demo` inside the nested machine: on KVM or not at all, with the example's layers there already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.kvm import say
from scripts.kvm.inside import LAYERS

STATE = Path("/demo")
CONFIGURATION = """\
listen = "127.0.0.1:7070"
[build]
trust = "operator"
[machine]
accel = "kvm"
probe_s = 120
[artifacts]
listen = "127.0.0.1:7071"
"""


def main() -> int:
    (STATE / "accounts").mkdir(mode=0o700, parents=True)
    (STATE / "rekindle.toml").write_text(CONFIGURATION)
    subprocess.run(["cp", "-a", str(LAYERS), str(STATE / "accounts/000000000000")], check=True)
    code = subprocess.run([sys.executable, "-m", "examples.demo", "--state", str(STATE)], check=False).returncode
    log = (STATE / "serve.log").read_text()
    if code != 0:
        say(log[-4000:])
    elif "accelerator kvm" not in log:
        say("the service did not say that it uses KVM")
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
