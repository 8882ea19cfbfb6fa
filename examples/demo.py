"""The main job, end to end, as an ordinary client: unmodified boto3 and an HTTPS client against `rekindle serve`.

`make demo` runs it. It starts the service if none runs on its state folder, and stops it again at the end; images and
tools stay, so a second run is short. `--keep` leaves the service running.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config as BotoConfig

from rekindle.config import default_state

HERE = Path(__file__).resolve().parent
REKINDLE = Path(sys.executable).with_name("rekindle")
APP = HERE / "interpreter"
HOOKS = {
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
        for name, value in ((hook, "ENABLED"), (f"{hook}TimeoutInSeconds", 20))
    },
}
STEPS: list[tuple[str, float]] = []


def say(text: str) -> None:
    print(text, flush=True)


def headline(text: str) -> None:
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    STEPS.append((name, took))
    say(f"   {name}: {took * 1000:.0f} ms" if took < 10 else f"   {name}: {took:.1f} s")


# -- the service -------------------------------------------------------------------------------------------------------


class Service:
    """`rekindle serve` on the demo's state folder: taken as it runs, or started and stopped by the demo."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._answers():
            say(f"   the service runs already on {self.state}")
            return
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.state / "rekindle.toml"
        if not config.exists():
            config.write_text(self._configuration())
        say(f'   build.trust = "operator" in {config}: Dockerfiles are built on this host, which you trust yours to be')
        log = (self.state / "serve.log").open("ab")
        self.child = subprocess.Popen(
            [REKINDLE, "--state", self.state, "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while not self._answers():
            if self.child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not start; the end of {self.state}/serve.log:\n{self._log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.child is None or self.child.poll() is not None:  # it never came up: the reason is told already
            return
        subprocess.run([REKINDLE, "--state", self.state, "down"], check=True, stdout=subprocess.DEVNULL)
        self.child.wait(timeout=60)

    def environment(self) -> dict[str, str]:
        """What `. client.env` gives a shell."""
        script = f". {self.state}/client.env && env -0"
        output = subprocess.run(["sh", "-c", script], check=True, capture_output=True).stdout
        return dict(line.split("=", 1) for line in output.decode().split("\0") if "=" in line)

    def inspect(self, vm_id: str) -> dict[str, Any]:
        command = [REKINDLE, "--state", self.state, "inspect", vm_id, "--json"]
        answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return answer

    def _answers(self) -> bool:
        command = [REKINDLE, "--state", self.state, "ps", "--json"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _configuration(self) -> str:
        api, store = (f"127.0.0.1:{port if port_is_free(port) else 0}" for port in (7070, 7071))
        return f'listen = "{api}"\n\n[build]\ntrust = "operator"\n\n[artifacts]\nlisten = "{store}"\n'

    def _log_tail(self) -> str:
        return "\n".join((self.state / "serve.log").read_text(errors="replace").splitlines()[-20:])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# -- the client --------------------------------------------------------------------------------------------------------


class Client:
    """boto3 as it comes, told where to go by `client.env` alone."""

    def __init__(self, env: dict[str, str]) -> None:
        for name in ("AWS_PROFILE", "AWS_CA_BUNDLE"):
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in env.items() if name.startswith(("AWS_", "REKINDLE_"))})
        quiet = BotoConfig(proxies={}, read_timeout=120)
        self.microvms = boto3.client("lambda-microvms", config=quiet)
        self.s3 = boto3.client("s3", config=quiet)
        self.ca = env["REKINDLE_CA"]
        self.tls = ssl.create_default_context(cafile=self.ca)

    def token(self, vm_id: str) -> dict[str, str]:
        answer = self.microvms.create_microvm_auth_token(
            microvmIdentifier=vm_id, expirationInMinutes=30, allowedPorts=[{"port": 8080}]
        )
        token: dict[str, str] = answer["authToken"]
        return token

    def session(self, vm: dict[str, Any]) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://{vm['endpoint']}",
            verify=self.tls,
            headers=self.token(vm["microvmId"]),
            timeout=60,
            trust_env=False,
        )

    def wait_for(self, vm_id: str, state: str) -> None:
        deadline = time.monotonic() + 60
        while (seen := self.microvms.get_microvm(microvmIdentifier=vm_id)["state"]) != state:
            if time.monotonic() > deadline:
                sys.exit(f"{vm_id} is {seen}, not {state}")
            time.sleep(0.02)


def run_snippet(session: httpx.Client, source: str) -> str:
    answer = session.post("/run", content=source.encode()).raise_for_status().json()
    if answer.get("error"):
        sys.exit(f"the interpreter says:\n{answer['error']}")
    shown: str = (answer.get("stdout") or "") + (answer["result"] if answer.get("result") is not None else "")
    for line in source.strip().splitlines():
        say(f"   >>> {line}")
    for line in shown.splitlines():
        say(f"   {line}")
    return shown


# -- the tour ----------------------------------------------------------------------------------------------------------


def make_image(client: Client, service: Service) -> str:
    headline("1. A folder with a Dockerfile becomes an image")
    archive = zip_of(APP)
    name = "interpreter-" + hashlib.sha256(archive + json.dumps(HOOKS).encode()).hexdigest()[:8]
    arn = f"arn:aws:lambda:{client.microvms.meta.region_name}:000000000000:microvm-image:{name}"
    with contextlib.suppress(client.microvms.exceptions.ResourceNotFoundException):
        state = client.microvms.get_microvm_image(imageIdentifier=arn)["state"]
        if state in ("CREATED", "CREATING"):
            say(f"   {name} is there already")
            if state == "CREATING":
                follow(client, service, arn)
            return arn
        say(f"   {name} is {state} from an earlier try: removed")
        subprocess.run([REKINDLE, "--state", service.state, "image", "rm", arn], check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(client.s3.exceptions.BucketAlreadyOwnedByYou):
        client.s3.create_bucket(Bucket="demo")
    client.s3.put_object(Bucket="demo", Key=f"{name}.zip", Body=archive)
    say(f"   put s3://demo/{name}.zip ({len(archive)} bytes)")
    with step("image: build, boot, /ready, snapshot, /validate"):
        client.microvms.create_microvm_image(
            name=name,
            baseImageArn=client.microvms.list_managed_microvm_images()["items"][0]["imageArn"],
            buildRoleArn="arn:aws:iam::000000000000:role/build",
            codeArtifact={"uri": f"s3://demo/{name}.zip"},
            resources=[{"minimumMemoryInMiB": 512}],
            hooks=HOOKS,
        )
        follow(client, service, arn)
    return arn


def follow(client: Client, service: Service, arn: str) -> None:
    """Show the build's own log while it runs, until the image is CREATED."""
    logs = subprocess.Popen([REKINDLE, "--state", service.state, "image", "logs", arn, "--follow"])
    try:
        while (state := client.microvms.get_microvm_image(imageIdentifier=arn)["state"]) == "CREATING":
            time.sleep(0.3)
    finally:
        if logs.poll() is None:
            logs.terminate()
        logs.wait()
    if state != "CREATED":
        build = client.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"][0]
        sys.exit(f"the image is {state}: {build['stateReason']}")
    sizes = client.microvms.get_microvm_image_build(
        imageIdentifier=arn,
        imageVersion="1.0",
        buildId=client.microvms.list_microvm_image_builds(imageIdentifier=arn, imageVersion="1.0")["items"][0][
            "buildId"
        ],
    )["snapshotBuild"]
    say("   " + ", ".join(f"{key.removesuffix('InBytes')} {value / 2**20:.1f} MiB" for key, value in sizes.items()))


def zip_of(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                info = zipfile.ZipInfo(str(path.relative_to(folder)), (2026, 1, 1, 0, 0, 0))
                info.external_attr = (path.stat().st_mode & 0o777) << 16
                archive.writestr(info, path.read_bytes())
    return data.getvalue()


def launch(client: Client, arn: str) -> tuple[dict[str, Any], httpx.Client]:
    vm = client.microvms.run_microvm(
        imageIdentifier=arn,
        idlePolicy={"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True},
        runHookPayload=json.dumps({"who": "demo"}),
    )
    return vm, client.session(vm)


def talk(client: Client, arn: str) -> tuple[dict[str, Any], httpx.Client]:
    headline("2. A microVM of its own, and a conversation with it")
    with step("run_microvm -> first answer of the app"):
        vm, session = launch(client, arn)
        session.get("/state").raise_for_status()
    say(f"   {vm['microvmId']} at https://{vm['endpoint']}")
    run_snippet(session, "primes = [n for n in range(2, 100) if all(n % d for d in range(2, n))]\nlen(primes)")
    run_snippet(session, "log = open('/tmp/notes.txt', 'w')\nlog.write('first line\\n')\nlog.flush()\nsum(primes)")
    run_snippet(session, "open('/tmp/notes.txt').read() + str(primes[-1])")
    return vm, session


def sleep_and_wake(client: Client, service: Service, vm: dict[str, Any], session: httpx.Client) -> dict[str, str]:
    headline("3. It sleeps without a process, and the next request wakes it")
    before = session.get("/state").json()
    running = service.inspect(vm["microvmId"])
    pid = running["handle"]["pid"]
    costs = {"a running microVM": cost_of_running(pid, Path(running["home"]))}
    with step("suspend_microvm -> no process left"):
        client.microvms.suspend_microvm(microvmIdentifier=vm["microvmId"])
        client.wait_for(vm["microvmId"], "SUSPENDED")
    say(f"   VMM process {pid} exists: {Path(f'/proc/{pid}').exists()}")
    costs["a suspended microVM"] = f"0 MiB of memory, {disk_mib(Path(running['home'])):.1f} MiB of disk, no process"
    with step("next request -> resumed and answered"):
        after = session.get("/state").raise_for_status().json()
    say(f"   the background thread had counted to {before['ticks']}, and to {after['ticks']} by now")
    run_snippet(session, "log.write('second line, same open file\\n')\nlog.flush()\nopen('/tmp/notes.txt').read()")
    run_snippet(session, "primes[:5]")
    say(f"   hooks that the app has seen: {after['hooks']}")
    return costs


def independence(client: Client, arn: str, first: dict[str, Any]) -> list[dict[str, Any]]:
    headline("4. Three more of the same image at once: independent, each with a kernel of its own")
    with step("three run_microvm at once -> all answered"), concurrent.futures.ThreadPoolExecutor(3) as pool:
        launched = list(pool.map(lambda _: launch(client, arn), range(3)))
        states = list(pool.map(lambda pair: pair[1].get("/state").raise_for_status().json(), launched))
    for number, (_, session) in enumerate(launched):
        session.post("/run", content=f"mine = {number}".encode()).raise_for_status()
    mine = [session.post("/run", content=b"mine").json()["result"] for _, session in launched]
    ignorant = all("primes" not in state["variables"] for state in states)
    say(f"   variable `mine` in the three: {mine}; none of them knows `primes`: {ignorant}")
    say(f"   host kernel:  {os.uname().release}")
    for (vm, _), state in zip(launched, states, strict=True):
        say(
            f"   guest kernel: {state['kernel']}  {state['hostname']}"
            f"  machine-id {state['machine_id'][:8]}…  urandom {state['random'][:16]}…"
        )
        if vm["microvmId"] == first["microvmId"]:
            sys.exit("a new microVM has the id of the first")
    for key in ("hostname", "machine_id", "random"):
        if len({state[key] for state in states}) != 3:
            sys.exit(f"{key} is not different in the three")
    return [vm for vm, _ in launched]


def end(client: Client, service: Service, vms: list[dict[str, Any]]) -> None:
    headline("5. Terminated, and nothing is left")
    homes = [Path(service.inspect(vm["microvmId"])["home"]) for vm in vms]
    pids = [service.inspect(vm["microvmId"])["handle"]["pid"] for vm in vms]
    with step(f"terminate_microvm of {len(vms)} -> all gone"):
        for vm in vms:
            client.microvms.terminate_microvm(microvmIdentifier=vm["microvmId"])
        for vm in vms:
            client.wait_for(vm["microvmId"], "TERMINATED")
    left = {
        "processes": [pid for pid in pids if Path(f"/proc/{pid}").exists()],
        "files": [str(home) for home in homes if home.exists()],
        "mounts": [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if str(service.state / "vms") in line
        ],
        "sockets": [
            line for line in Path("/proc/net/unix").read_text().splitlines() if str(service.state / "vms") in line
        ],
        "endpoints": [vm["endpoint"] for vm in vms if not port_is_free(int(vm["endpoint"].rpartition(":")[2]))],
    }
    say("   left behind: " + ", ".join(f"{what} {len(found)}" for what, found in left.items()))
    if any(left.values()):
        sys.exit(f"something is left: {left}")


# -- what it costs -----------------------------------------------------------------------------------------------------


def cost_of_running(pid: int, home: Path) -> str:
    rollup = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )
    private_mib = int(rollup["Anonymous"].split()[0]) / 1024
    pss_mib = int(rollup["Pss"].split()[0]) / 1024
    before, began = cpu_ticks(pid), time.perf_counter()
    time.sleep(2)
    share = (cpu_ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - began)
    memory = f"{private_mib:.0f} MiB of memory of its own ({pss_mib:.0f} MiB with its share of the image)"
    return f"{memory}, {disk_mib(home):.1f} MiB of disk, {share * 100:.1f} % of a core while idle"


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def disk_mib(folder: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 2**20


def summary(service: Service, costs: dict[str, str]) -> None:
    headline("What it took")
    width = max(len(name) for name, _ in STEPS)
    for name, took in STEPS:
        say(f"   {name:<{width}}  {took * 1000:9.0f} ms")
    for name, cost in costs.items():
        say(f"   {name}: {cost}")
    headline("Go on alone")
    if service.child is not None:
        say(f"   {REKINDLE} --state {service.state} serve &")
    say(f"   . {service.state}/client.env")
    say("   aws lambda-microvms list-microvms")
    say(f"   {REKINDLE} --state {service.state} ps")
    say(f"   {REKINDLE} --state {service.state} run interpreter-… --wait")
    say('   curl --cacert "$REKINDLE_CA" -H "X-aws-proxy-auth: <token>" https://localhost:<port>/state')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=default_state(os.environ) / "demo", help="state folder of the demo"
    )
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    options = parser.parse_args()
    service = Service(options.state.absolute())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    headline("The service")
    try:
        with step("rekindle serve -> answers"):
            service.start()
        client = Client(service.environment())
        arn = make_image(client, service)
        first, session = talk(client, arn)
        costs = sleep_and_wake(client, service, first, session)
        others = independence(client, arn, first)
        end(client, service, [first, *others])
        summary(service, costs)
    finally:
        if not options.keep:
            service.stop()


if __name__ == "__main__":
    main()
