"""The service as its client sees it, with a stopwatch: launch, suspend, resume by request."""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cold import Image
from rekindle.cli import archive
from rekindle.core.token import Claims
from rekindle.seal import TokenKey, seal
from tests.e2e.cloud import HOOKS, Cloud, Vm

ANSWER_S = 60.0
BAKE_S = 600.0
GONE_S = 30.0
TOKEN_S = 1800
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}
#: All runtime hooks but suspend's: a suspend is measured without what the app does in it.
NO_SUSPEND_HOOK = HOOKS | {
    "microvmHooks": {name: value for name, value in HOOKS["microvmHooks"].items() if not name.startswith("suspend")}
}


@dataclass(frozen=True)
class Launched:
    id: str
    endpoint: str
    header: tuple[str, str]  #: its token


class Service:
    """One prepared client: an API connection, a TLS context. Tokens are made by the API or, for comparison, with the
    service's own key."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.api = cloud.client()
        self._tls = ssl.create_default_context(cafile=cloud.env()["REKINDLE_CA"])
        key = json.loads((cloud.state / "keys/token.json").read_text())
        self._key = TokenKey(key["kid"], base64.b64decode(key["key"]))

    def bake(
        self, name: str, folder: Path, *, port: int, path: str, hook_port: int, memory_mib: int
    ) -> tuple[str, Image]:
        """Make an image from a folder with a Dockerfile; its ARN, and where it lies."""
        s3 = self.cloud.client("s3")
        with tempfile.TemporaryFile() as zipped:
            archive.write(folder, zipped)
            s3.create_bucket(Bucket=name)
            s3.put_object(Bucket=name, Key="code.zip", Body=zipped.read())
        before = set(self._folders())
        arn: str = self.api.create_microvm_image(
            name=name,
            baseImageArn=self.api.list_managed_microvm_images()["items"][0]["imageArn"],
            buildRoleArn="arn:aws:iam::000000000000:role/build",
            codeArtifact={"uri": f"s3://{name}/code.zip"},
            resources=[{"minimumMemoryInMiB": memory_mib}],
            hooks=NO_SUSPEND_HOOK | {"port": hook_port},
        )["imageArn"]
        build = self.cloud.settled(arn, BAKE_S)
        if build["buildState"] != "SUCCESSFUL":
            raise RuntimeError(f"{name}: {build['stateReason']}\n{self.cloud.build_log(arn)}")
        made = next(one for one in self._folders() if one not in before)
        config = json.loads((made / "image.json").read_text())["config"]
        return arn, Image(folder=made, config=config, port=port, path=path)

    def _folders(self) -> list[Path]:
        return list((self.cloud.state / "images").glob("*/*"))

    # -- what is measured ----------------------------------------------------------------------------------------------

    def launch(self, arn: str, image: Image) -> tuple[Launched, float]:
        """RunMicrovm, CreateMicrovmAuthToken, the app's first answer over HTTPS."""
        before = time.perf_counter()
        answer = self._run(arn)
        token = self.api.create_microvm_auth_token(
            microvmIdentifier=answer["microvmId"], expirationInMinutes=30, allowedPorts=[{"port": image.port}]
        )["authToken"]
        ((name, value),) = token.items()
        vm = Launched(answer["microvmId"], answer["endpoint"], (name, value))
        self.get(vm, image.path)
        return vm, time.perf_counter() - before

    def launch_with_own_token(self, arn: str, image: Image, header: str) -> tuple[Launched, float]:
        """`launch` without the token call: the bench seals the token itself."""
        before = time.perf_counter()
        answer = self._run(arn)
        claims = Claims(
            vm_id=answer["microvmId"],
            generation=1,
            ports=((image.port, image.port),),
            expires_at_s=time.time_ns() // 10**9 + TOKEN_S,
        )
        vm = Launched(answer["microvmId"], answer["endpoint"], (header, seal(self._key, claims)))
        self.get(vm, image.path)
        return vm, time.perf_counter() - before

    def suspend(self, vm: Launched) -> float:
        """Seconds from the SuspendMicrovm call until the VMM process is gone, as its pidfd tells.

        Returns when the row says SUSPENDED, too."""
        pid = int((self.home(vm) / "run/vmm").read_text().split()[0])
        pidfd = os.pidfd_open(pid)
        try:
            before = time.perf_counter()
            self.api.suspend_microvm(microvmIdentifier=vm.id)
            if not select.select([pidfd], [], [], GONE_S)[0]:
                raise RuntimeError(f"the VMM of {vm.id} was there {GONE_S} s after the suspend call")
            took = time.perf_counter() - before
        finally:
            os.close(pidfd)
        self._vm(vm).until("SUSPENDED")
        return took

    def resume(self, vm: Launched, image: Image) -> float:
        """Seconds from a request to the endpoint of the suspended VM until its answer."""
        before = time.perf_counter()
        self.get(vm, image.path)
        return time.perf_counter() - before

    def get(self, vm: Launched, path: str) -> str:
        return self._https(vm, "GET", path, None)

    def post(self, vm: Launched, path: str, body: str) -> str:
        return self._https(vm, "POST", path, body)

    def terminate(self, vm: Launched) -> None:
        self._vm(vm).terminate()

    def home(self, vm: Launched) -> Path:
        return self.cloud.state / "vms" / vm.id

    def snapshot(self, vm: Launched) -> Path:
        """The only whole snapshot of a suspended VM."""
        (manifest,) = (self.home(vm) / "snapshots").glob("*/manifest.json")
        return manifest.parent

    def _vm(self, vm: Launched) -> Vm:
        return Vm(self.cloud, vm.id, vm.endpoint)

    def _run(self, arn: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self.api.run_microvm(imageIdentifier=arn, idlePolicy=IDLE)
        return answer

    def _https(self, vm: Launched, method: str, path: str, body: str | None) -> str:
        host, _, port = vm.endpoint.partition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=self._tls, timeout=ANSWER_S)
        try:
            connection.request(method, path, body=body, headers=dict([vm.header]))
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != http.client.OK:
                raise RuntimeError(f"{vm.id} answered {response.status} to {method} {path}: {text}")
            return text
        finally:
            connection.close()
