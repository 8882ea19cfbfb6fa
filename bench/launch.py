"""How long a microVM takes: launch, suspend, resume by request, each beside its floor, a cold boot and `runc run`.

    python -m bench.launch [--rounds N] [--cold-rounds N] [--guest interpreter|static-go] [--json FILE]

Everything is measured in one run on one machine, series by series in turn within a round, so that a busy moment hits
all of them. It prints series and ratios and judges nothing. bench/README.md says what each row means.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import container, figures, floor
from bench.cold import Image, Oven
from bench.service import NO_SUSPEND_HOOK, Launched, Service
from bench.speaker import ROOT, Speaker, compile_go, speaking
from rekindle import config
from rekindle.guest.client import HookCall
from rekindle.image import toolbox
from rekindle.image.toolbox import Toolbox
from rekindle.node.perform import SEED_BYTES
from tests import leaks
from tests.e2e.cloud import Cloud

COLD = "cold boot to first answer"
LAUNCH = "RunMicrovm to first answer, token call and all"
LAUNCH_OWN_TOKEN = "RunMicrovm to first answer, no token call"
LAUNCH_FLOOR = "floor: bare restore to first answer (launch)"
SUSPEND = "SuspendMicrovm to VMM gone"
SUSPEND_FLOOR = "floor: bare freeze and save"
RESUME = "request to a suspended VM to its answer"
RESUME_FLOOR = "floor: bare restore to first answer (resume)"
CONTAINER = "runc run to first answer"
FLOORS = {LAUNCH: LAUNCH_FLOOR, LAUNCH_OWN_TOKEN: LAUNCH_FLOOR, RESUME: RESUME_FLOOR, SUSPEND: SUSPEND_FLOOR}
MEMORY_MIB = 512
FIRST_PORT = 28_000
#: Ten MiB that no zero page and no page of the image stands for; GET /state does not show names with two underscores.
DIRTY_10_MIB = "__blob = bytearray(b'rekindle' * (10 << 17)); len(__blob)"


@dataclass(frozen=True)
class Subject:
    """A guest under test."""

    name: str
    port: int
    path: str
    hook_port: int
    dirties: bool  #: whether it has a way to dirty memory (the interpreter's POST /run)


SUBJECTS = (
    Subject("interpreter", port=8080, path="/state", hook_port=9000, dirties=True),
    Subject("static-go", port=8080, path="/", hook_port=8080, dirties=False),
)


@dataclass(frozen=True)
class Ground:
    """What every round needs."""

    service: Service
    tools: Toolbox
    oven: Oven
    speaker: Speaker


def _source(subject: Subject, scratch: Path) -> Path:
    """The example's folder, as a user would zip it."""
    folder = scratch / subject.name
    shutil.copytree(ROOT / "examples" / subject.name, folder, ignore=shutil.ignore_patterns("__pycache__", "app"))
    if (folder / "go.mod").exists():
        compile_go(folder, ".", folder / "app")
    return folder


# -- one round ---------------------------------------------------------------------------------------------------------


async def _floor_of_launch(at: Ground, subject: Subject, image: Image, into: figures.Guest) -> None:
    payload = json.dumps({"microvmId": f"microvm-{uuid.uuid4()}", "runHookPayload": ""})
    before = time.perf_counter()
    async with floor.Restore(at.tools.root, image.folder) as bare:
        await _thawed(at.speaker, bare, _thaw(subject, "run", payload))
        at.speaker.get(image.port, image.path)
        into.add(LAUNCH_FLOOR, time.perf_counter() - before)
        at.speaker.close()


async def _floors_of_sleep(at: Ground, subject: Subject, image: Image, snap: Path, into: figures.Guest) -> None:
    """The same snapshot resumed and suspended again, without service and relay. The snapshot stays as it is."""
    before = time.perf_counter()
    async with floor.Restore(at.tools.root, image.folder, snap) as bare:
        await _thawed(at.speaker, bare, _thaw(subject, "resume", None))
        at.speaker.get(image.port, image.path)
        into.add(RESUME_FLOOR, time.perf_counter() - before)
        before = time.perf_counter()
        at.speaker.ask("POST", "/v1/freeze", {"hook": None, "trim": False})
        at.speaker.close()
        await floor.save(bare)
        into.add(SUSPEND_FLOOR, time.perf_counter() - before)


async def _thawed(speaker: Speaker, bare: floor.Bare, body: object) -> None:
    speaker.connect(bare.home / "run")
    await floor.run(bare)
    speaker.ask("POST", "/v1/thaw", body)


def _thaw(subject: Subject, hook: str, payload: str | None) -> dict[str, Any]:
    """What rekindle.node.perform has the relay send."""
    call = HookCall(
        name=hook,
        port=subject.hook_port,
        timeout_s=NO_SUSPEND_HOOK["microvmHooks"][f"{hook}TimeoutInSeconds"],
        host=f"localhost:{subject.hook_port}",
        body=payload,
    )
    return {
        "entropy": base64.b64encode(os.urandom(SEED_BYTES)).decode(),
        "now_ns": time.time_ns(),
        "hostname": "microvm-floor",
        "machine_id": uuid.uuid4().hex,
        "first": hook == "run",
        "hook": call.to_wire(),
    }


def _launches(at: Ground, arn: str, image: Image, into: figures.Guest) -> Launched:
    vm, took = at.service.launch(arn, image)
    into.add(LAUNCH, took)
    other, took = at.service.launch_with_own_token(arn, image, vm.header[0])
    into.add(LAUNCH_OWN_TOKEN, took)
    at.service.terminate(other)
    return vm


async def _sleep(at: Ground, subject: Subject, vm: Launched, image: Image, into: figures.Guest) -> None:
    if subject.dirties:
        at.service.post(vm, "/run", DIRTY_10_MIB)
    into.add(SUSPEND, at.service.suspend(vm))
    await _floors_of_sleep(at, subject, image, at.service.snapshot(vm), into)
    into.add(RESUME, at.service.resume(vm, image))


async def _round(at: Ground, subject: Subject, arn: str, image: Image, into: figures.Guest) -> None:
    await _floor_of_launch(at, subject, image, into)
    vm = _launches(at, arn, image, into)
    await _sleep(at, subject, vm, image, into)
    at.service.terminate(vm)


# -- the run -----------------------------------------------------------------------------------------------------------


async def _measure(at: Ground, subject: Subject, asked: argparse.Namespace, scratch: Path) -> figures.Guest:
    """All series of one guest. One round more than asked is made first and thrown away: it fills caches."""
    _say(f"{subject.name}: baking")
    arn, image = at.service.bake(
        subject.name,
        _source(subject, scratch),
        port=subject.port,
        path=subject.path,
        hook_port=subject.hook_port,
        memory_mib=MEMORY_MIB,
    )
    made = figures.Guest(subject.name)
    with _containers(at, image, scratch / f"{subject.name}-container") as containers:
        for number in range(asked.rounds + 1):
            _say(f"{subject.name}: round {number} of {asked.rounds}" + (" (warm-up)" if number == 0 else ""))
            into = made if number else figures.Guest("warm-up")
            await _round(at, subject, arn, image, into)
            if containers is not None:
                into.add(CONTAINER, containers.run())
            if 0 < number <= asked.cold_rounds:
                into.add(COLD, await at.oven.boot(image, at.speaker))
    return made


@contextlib.contextmanager
def _containers(at: Ground, image: Image, scratch: Path) -> Iterator[container.Runner | None]:
    if os.geteuid() != 0:
        _say("runc run: left out, it needs root")
        yield None
        return
    with container.runner(at.tools.root, image, scratch) as runner:
        yield runner


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """One folder for all that the run writes; temporary files of everything in this process lie there, too."""
    with tempfile.TemporaryDirectory(prefix="rekindle-bench-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = None


@contextlib.contextmanager
def _service(state: Path) -> Iterator[Service]:
    cloud = Cloud(state, config.load().tools_dir, first_port=FIRST_PORT)
    try:
        cloud.start()
        yield Service(cloud)
    finally:
        cloud.down()


def _run(asked: argparse.Namespace, scratch: Path) -> list[figures.Guest]:
    tools = toolbox.installed(config.load().tools_dir)[0]
    subjects = [one for one in SUBJECTS if asked.guest in (None, one.name)]
    with _service(scratch / "state") as service, speaking(scratch) as speaker:
        at = Ground(service, tools, Oven(tools, scratch), speaker)
        return [asyncio.run(_measure(at, subject, asked, scratch)) for subject in subjects]


def _report(guests: list[figures.Guest], asked: argparse.Namespace) -> None:
    for guest in guests:
        print(f"\n{figures.table(guest, FLOORS, COLD)}", flush=True)
    if asked.json:
        machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "kernel": os.uname().release}
        series = {guest.name: figures.summary(guest, FLOORS, COLD) for guest in guests}
        asked.json.write_text(json.dumps({"machine": machine, "guests": series}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cold-rounds", type=int, help="a cold boot takes long; default: as many as rounds")
    parser.add_argument("--guest", choices=[one.name for one in SUBJECTS], help="only this one")
    parser.add_argument("--json", type=Path, help="write everything, every single value too, to this file")
    asked = parser.parse_args()
    asked.cold_rounds = asked.rounds if asked.cold_rounds is None else asked.cold_rounds
    with _scratch() as scratch:
        before = leaks.snapshot(None, scratch)
        guests = _run(asked, scratch)
    _report(guests, asked)
    if left := leaks.settled(before, within_s=10):
        sys.exit("left behind (or begun by somebody else meanwhile):\n" + "\n".join(map(str, left)))


if __name__ == "__main__":
    main()
