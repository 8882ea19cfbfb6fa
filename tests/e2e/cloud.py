"""A real service for tests: `rekindle serve` as a process on its own state folder, and clients as users have them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config as BotoConfig

from rekindle.clock import TEST_CLOCK
from tests.accel import LAYERS, SETTING
from tests.unixhttp import asked
from tests.waiting import SLOWNESS, until

REKINDLE = Path(sys.executable).with_name("rekindle")
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
listen = "127.0.0.1:0"
{top}
[build]
{build}
[machine]
accel = "{accel}"
probe_s = {probe_s}
{machine}
[memory]
extra_sizes_mib = [128, 256]
{memory}
[artifacts]
listen = "127.0.0.1:0"
[ingress]
first_port = {first_port}
last_port = {last_port}
[quiet]
{quiet}
{rest}
"""
#: Only paths that no test uses for anything else.
QUIET = 'rules = ["ignore GET /quiet/*", "park /parked/*"]'


@dataclass
class Cloud:
    """One service. Every method leaves the machine as it says; `down` leaves nothing running."""

    state: Path
    tools_dir: Path
    first_port: int = 21000
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    clients: list[Any] = field(default_factory=list)
    clock: Path | None = None  #: a file that says what time it is (rekindle.clock.FileClock)
    program: Sequence[str | Path] = (REKINDLE,)

    def configure(self, **settings: str) -> None:
        """TOML text for the places `top`, `build`, `machine`, `memory`, `quiet`, `rest`; used at the next start."""
        self.settings = settings
        defaults = {
            "top": "",
            "build": 'trust = "operator"',
            "machine": "",
            "memory": "",
            "quiet": QUIET,
            "rest": "",
            "accel": SETTING,
            "probe_s": str(int(10 * SLOWNESS)),
        }
        values = defaults | settings
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = SETTINGS.format(first_port=self.first_port, last_port=self.first_port + 499, **values)
        (self.state / "rekindle.toml").write_text(text)

    def start(self) -> None:
        if not (self.state / "rekindle.toml").exists():
            self.configure()
        self._spawn("serve")
        until(self._up, 120, "the service answers")

    def take_over(self) -> None:
        """Start another service on the same state folder, which takes the place of this one."""
        old = self.process
        assert old is not None
        self._spawn("serve", "--take-over")
        assert old.wait(timeout=60) == 0
        until(self._up, 120, "the new service answers")

    def _spawn(self, *words: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("REKINDLE_", "AWS_"))}
        if self.clock is not None:
            env |= {TEST_CLOCK: str(self.clock)}
        with (self.state / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--state", self.state, *words],
                env=env | {"REKINDLE_TOOLS_DIR": str(self.tools_dir)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def lives(self) -> bool:
        """Whether the service that was started last has a process."""
        return self.process is not None and self.process.poll() is None

    def _up(self) -> bool:
        if not self.lives:
            raise AssertionError(f"serve ended:\n{self.log()[-4000:]}")
        return self.cli("ps", "--json", check=False).returncode == 0

    def stop(self) -> None:
        """SIGTERM: VMs and relay stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30 * SLOWNESS)
        self.process = None

    def down(self) -> None:
        """`rekindle down`: VMs terminated, relay and service gone; connections to it as well."""
        self.close_clients()
        if self.process is None:
            self.start()
        assert self.process is not None
        self.cli("down")
        self.process.wait(timeout=60 * SLOWNESS)
        self.process = None

    def cli(self, *words: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"REKINDLE_TOOLS_DIR": str(self.tools_dir), "NO_COLOR": "1", "COLUMNS": "200"}
        done = subprocess.run(
            [REKINDLE, "--state", self.state, *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout * SLOWNESS,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"rekindle {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()[-3000:]}"
            )
        return done

    def log(self) -> str:
        return (self.state / "serve.log").read_text(errors="replace")

    def env(self) -> dict[str, str]:
        script = f". {self.state}/client.env && env -0"
        out = subprocess.run(
            ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", script], check=True, capture_output=True
        ).stdout
        return dict(line.split("=", 1) for line in out.decode().split("\0") if "=" in line)

    def client(self, service: str = "lambda-microvms", **keys: str) -> Any:
        """Sends every call once."""
        return self._client(service, 1, keys)

    def patient_client(self) -> Any:
        """Sends a call again that was broken off, as boto3 does by default; here once."""
        return self._client("lambda-microvms", 2, {})

    def _client(self, service: str, attempts: int, keys: Mapping[str, str]) -> Any:
        env = self.env()
        name = {"lambda-microvms": "LAMBDA_MICROVMS", "s3": "S3", "lambda-core": "LAMBDA_CORE"}[service]
        client = boto3.client(
            service,
            endpoint_url=env[f"AWS_ENDPOINT_URL_{name}"],
            region_name=env["AWS_REGION"],
            aws_access_key_id=keys.get("key_id", env["AWS_ACCESS_KEY_ID"]),
            aws_secret_access_key=keys.get("secret", env["AWS_SECRET_ACCESS_KEY"]),
            config=BotoConfig(proxies={}, retries={"total_max_attempts": attempts}, read_timeout=60 * SLOWNESS),
        )
        self.clients.append(client)
        return client

    def close_clients(self) -> None:
        """Connections that boto3 keeps open are no leak of the service."""
        while self.clients:
            self.clients.pop().close()

    def lend_layers(self) -> None:
        """Before the first start: the first account has built the example already, where such layers are at hand."""
        if LAYERS is not None:
            storage = self.state / "accounts/000000000000"
            storage.parent.mkdir(mode=0o700, parents=True)
            subprocess.run(["cp", "-a", LAYERS, storage], check=True)

    def accel(self) -> str:
        """What the service says that its VMs run under."""
        return str(asked(self.state / "run/operator.sock", "/v1/status")["accel"])

    def relay_pid(self) -> int:
        """Raises OSError while there is no relay."""
        return int(asked(self.state / "run/relay.sock", "/v1/health")["pid"])

    def relays_word(self, vm_id: str) -> dict[str, Any]:
        """What the relay counts for a microVM (docs/contracts.md §4)."""
        counted: dict[str, Any] = asked(self.state / "run/relay.sock", "/vms")[vm_id]
        return counted

    def inspect(self, vm_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.cli("inspect", vm_id, "--json").stdout)
        return answer

    def vmm_pid(self, vm_id: str) -> int:
        return int(self.inspect(vm_id)["handle"]["pid"])

    # -- images --------------------------------------------------------------------------------------------------------

    def create_image(self, name: str, files: Mapping[str, bytes], **members: Any) -> str:
        """Store `files` as a code artifact and create an image from them; returns its ARN at once."""
        s3, api = self.client("s3"), self.client()
        if not any(bucket["Name"] == "artifacts" for bucket in s3.list_buckets()["Buckets"]):
            s3.create_bucket(Bucket="artifacts")
        s3.put_object(Bucket="artifacts", Key=f"{name}.zip", Body=zip_of(files))
        arguments: dict[str, Any] = {
            "name": name,
            "baseImageArn": api.list_managed_microvm_images()["items"][0]["imageArn"],
            "buildRoleArn": "arn:aws:iam::000000000000:role/build",
            "codeArtifact": {"uri": f"s3://artifacts/{name}.zip"},
            "resources": [{"minimumMemoryInMiB": 256}],
        }
        arn: str = api.create_microvm_image(**(arguments | members))["imageArn"]
        return arn

    def settled(self, arn: str, within_s: float = 300) -> dict[str, Any]:
        """The image's only build once it has ended."""
        api = self.client()
        until(lambda: api.get_microvm_image(imageIdentifier=arn)["state"] != "CREATING", within_s, f"{arn} settles")
        item = api.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"][0]
        build: dict[str, Any] = api.get_microvm_image_build(
            imageIdentifier=arn, imageVersion="1.0", buildId=item["buildId"]
        )
        return build

    def built(self, arn: str, within_s: float = 300) -> str:
        """The same ARN, once the image's only build has succeeded."""
        build = self.settled(arn, within_s)
        assert build["buildState"] == "SUCCESSFUL", (
            f"{build['stateReason']}\n{self.build_log(arn)}\n{self.log()[-3000:]}"
        )
        return arn

    def build_log(self, arn: str) -> str:
        return self.cli("image", "logs", arn).stdout

    # -- microVMs ------------------------------------------------------------------------------------------------------

    def run(self, arn: str, **members: Any) -> Vm:
        answer = self.client().run_microvm(imageIdentifier=arn, **members)
        return Vm(self, answer["microvmId"], answer["endpoint"])


@dataclass
class Vm:
    """One microVM as its user sees it."""

    cloud: Cloud
    id: str
    endpoint: str
    headers: dict[str, str] = field(default_factory=dict)

    def token(self, *ports: int, minutes: int = 30) -> dict[str, str]:
        allowed = [{"port": port} for port in ports or (8080,)]
        answer = self.cloud.client().create_microvm_auth_token(
            microvmIdentifier=self.id, expirationInMinutes=minutes, allowedPorts=allowed
        )
        token: dict[str, str] = answer["authToken"]
        return token

    def http(self, **headers: str) -> httpx.Client:
        if not self.headers:
            self.headers = self.token()
        tls = ssl.create_default_context(cafile=self.cloud.env()["REKINDLE_CA"])
        return httpx.Client(
            base_url=f"https://{self.endpoint}",
            verify=tls,
            headers=self.headers | dict(headers),
            timeout=60 * SLOWNESS,
            trust_env=False,
        )

    def get(self, path: str = "/state") -> Any:
        with self.http() as session:
            return session.get(path).raise_for_status().json()

    def snippet(self, source: str) -> str:
        """Run Python in the guest's interpreter and return the repr of its last expression."""
        with self.http() as session:
            answer = session.post("/run", content=source.encode()).raise_for_status().json()
        assert answer["error"] is None, answer["error"]
        return str(answer["result"])

    def row(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.cloud.client().get_microvm(microvmIdentifier=self.id)
        return answer

    def until(self, state: str, within_s: float = 60) -> dict[str, Any]:
        return until(lambda: (row := self.row()) and row["state"] == state and row, within_s, f"{self.id} is {state}")

    def suspend(self) -> None:
        self.cloud.client().suspend_microvm(microvmIdentifier=self.id)
        self.until("SUSPENDED")

    def terminate(self) -> None:
        self.cloud.client().terminate_microvm(microvmIdentifier=self.id)
        self.until("TERMINATED")

    @property
    def home(self) -> Path:
        return self.cloud.state / "vms" / self.id


def reply(vm: Vm, source: str) -> str:
    """A snippet's value, asked until the endpoint is there. For snippets that may run twice."""

    def once() -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            return vm.snippet(source)
        return None

    return until(once, 40, f"{vm.id} answers") or ""


def zip_of(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
    return data.getvalue()


def interpreter_files() -> dict[str, bytes]:
    folder = ROOT / "examples/interpreter"
    return {name: (folder / name).read_bytes() for name in ("Dockerfile", "app.py")}


HOOKS: dict[str, Any] = {
    "port": 9000,
    "microvmImageHooks": {
        "ready": "ENABLED",
        "readyTimeoutInSeconds": 120,
        "validate": "ENABLED",
        "validateTimeoutInSeconds": 60,
    },
    "microvmHooks": {
        name: value
        for hook in ("run", "resume", "suspend", "terminate")
        for name, value in ((hook, "ENABLED"), (f"{hook}TimeoutInSeconds", 30))
    },
}
