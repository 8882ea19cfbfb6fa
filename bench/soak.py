"""Is anything lost? A herd of microVMs under traffic, suspends, resumes and kills, every byte of them checked.

    python -m bench.soak --minutes N [--vms N] [--awake N] [--workers N] [--seed N] [--strike-every S] [--json FILE]

Each guest rewrites memory and disk step by step and answers with checksums of both; the bench knows what they must be
(bench/walk.py). Meanwhile service, relay and VMMs are killed at random. The exit status is 1 when a microVM has lost
anything or is stuck, or something is left behind. bench/README.md says what each line of the report means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench import figures
from bench.herd import Herd, allocated_bytes
from bench.herdsman import Herdsman
from bench.kinds import KINDS
from bench.patience import Api, Tally
from bench.strikes import Strikes
from rekindle import config
from tests import leaks
from tests.e2e.cloud import Cloud

FIRST_PORTS = range(30_000, 32_500, 500)
PROGRESS_S = 60.0
MIB = 1024**2


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Watched(Cloud):
    """A service that is looked at often: through its socket, for a command costs more than what it asks."""

    def _up(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"serve ended:\n{self.log()[-4000:]}")
        transport = httpx.HTTPTransport(uds=str(self.state / "run/operator.sock"))
        try:
            with httpx.Client(transport=transport, base_url="http://operator", timeout=30) as operator:
                return operator.get("/v1/status").is_success
        except httpx.HTTPError:
            return False


@contextlib.contextmanager
def _disk(scratch: Path, mib: int) -> Iterator[Path | None]:
    """A file system in memory for the microVMs' folders, one level below its root; None without `mib`. Needs root."""
    if not mib:
        yield None
        return
    disk, vms = scratch / "disk", scratch / "state/vms"
    disk.mkdir()
    vms.parent.mkdir(mode=0o700)
    vms.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", disk], check=True)
    try:
        (disk / "vms").mkdir(mode=0o700)
        subprocess.run(["mount", "--bind", disk / "vms", vms], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", vms], check=True)
    finally:
        subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def _cloud(scratch: Path, seed: int) -> Iterator[Cloud]:
    cloud = Watched(scratch / "state", config.load().tools_dir, first_port=FIRST_PORTS[seed % len(FIRST_PORTS)])
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.close_clients()
        cloud.down()


def _strike_on(strikes: Strikes, herdsman: Herdsman, rng: random.Random, mean_s: float, until_s: float) -> None:
    """Strike at random moments, `mean_s` apart in the mean. Raises when the service does not come back."""
    while not herdsman.over.wait(rng.expovariate(1 / mean_s)) and time.monotonic() < until_s:
        try:
            strikes.one()
        except BaseException:
            herdsman.over.set()
            raise


def _progress(herdsman: Herdsman, tally: Tally, until_s: float) -> None:
    while not herdsman.over.wait(min(PROGRESS_S, max(0.0, until_s - time.monotonic()))):
        _say(
            f"{tally.of('answers verified')} answers verified, "
            f"{tally.of('VMM killed: found at its last sleep')} at their last sleep after a kill, "
            f"{len(herdsman.losses)} lost, {len(herdsman.members())} microVMs, "
            f"{sum(one.awake for one in herdsman.members())} awake; {max(0.0, until_s - time.monotonic()):.0f} s to go"
        )
        if time.monotonic() >= until_s:
            return


def _under_way(herdsman: Herdsman, disk: Path | None, asked: argparse.Namespace) -> None:
    """The time that was asked for: workers, strikes and progress side by side."""
    until_s = time.monotonic() + asked.minutes * 60
    strikes = Strikes(herdsman.herd, herdsman.members, random.Random(asked.seed + 1), disk)
    rng = random.Random(asked.seed + 2)
    with ThreadPoolExecutor(asked.workers + 2) as pool:
        works = [pool.submit(herdsman.work, until_s) for _ in range(asked.workers)]
        works.append(pool.submit(_strike_on, strikes, herdsman, rng, asked.strike_every, until_s))
        threading.Thread(target=_progress, args=(herdsman, herdsman.herd.tally, until_s), daemon=True).start()
        for work in works:
            work.result()


def _soak(cloud: Cloud, disk: Path | None, asked: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    tally = Tally()
    herd = Herd(Api(cloud, tally), tally)
    for kind in KINDS:
        _say(f"baking {kind.name}")
        herd.bake(kind, scratch)
    herdsman = Herdsman(herd, random.Random(asked.seed), asked.vms, asked.awake, _say)
    _say(f"launching {asked.vms} microVMs; seed {asked.seed}")
    herdsman.fill(asked.workers)
    disk_bytes = {"start": allocated_bytes(cloud.state)}
    before_s = time.monotonic()
    _under_way(herdsman, disk, asked)
    took_s = time.monotonic() - before_s
    disk_bytes["end"] = allocated_bytes(cloud.state)
    _say("waking and verifying every microVM")
    herdsman.home(asked.workers)
    disk_bytes["with no microVM left"] = allocated_bytes(cloud.state)
    return {
        "minutes": took_s / 60,
        "seed": asked.seed,
        "microvms": asked.vms,
        "ids": sorted(herd.ids),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg(), "kernel": os.uname().release},
        "counts": tally.counts,
        "times_s": tally.times_s,
        "disk_bytes": disk_bytes,
        "lost": [loss.saved() for loss in herdsman.losses],
    }


def _report(made: Mapping[str, Any]) -> None:
    load = " / ".join(f"{one:.1f}" for one in made["machine"]["load"])
    print(f"\n{made['minutes']:.1f} minutes, {made['microvms']} microVMs, seed {made['seed']}, load {load}\n")
    print("| what | times |\n|---|--:|")
    for name, count in sorted(made["counts"].items()):
        print(f"| {name} | {count} |")
    print("\n| operation | times | median ms | p95 ms |\n|---|--:|--:|--:|")
    for name, times_s in sorted(made["times_s"].items()):
        ms = [1000 * one for one in times_s]
        print(f"| {name} | {len(ms)} | {figures.median(ms):.0f} | {figures.p95(ms):.0f} |")
    print("\n| disk of the state folder | MiB |\n|---|--:|")
    for name, size in made["disk_bytes"].items():
        print(f"| {name} | {size // MIB} |")
    print(f"\nlost: {len(made['lost'])}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--vms", type=int, default=33)
    parser.add_argument("--awake", type=int, default=5, help="so many may be awake before others are put to sleep")
    parser.add_argument("--workers", type=int, default=4, help="operations at once")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the choices; moments differ")
    parser.add_argument("--strike-every", type=float, default=10, help="seconds between two kills, in the mean")
    parser.add_argument(
        "--disk-mib", type=int, default=0, help="give the VMs a disk of this size, and fill it at times"
    )
    parser.add_argument("--json", type=Path, help="write everything, every single time too, to this file")
    parser.add_argument("--keep-log", type=Path, help="copy the service's log to this file at the end")
    return parser.parse_args()


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="rekindle-soak-") as folder:
        scratch = Path(folder)
        before = leaks.snapshot(None, scratch)
        with _disk(scratch, asked.disk_mib) as disk, _cloud(scratch, asked.seed) as cloud:
            try:
                made = _soak(cloud, disk, asked, scratch)
            finally:
                if asked.keep_log:
                    asked.keep_log.write_text(cloud.log())
        left = leaks.settled(before, within_s=20)
    _report(made)
    ours = [str(leak) for leak in left if _is_ours(leak, made["ids"])]
    if asked.json:
        asked.json.write_text(json.dumps({**made, "left_behind": ours}, indent=1) + "\n")
    if ours:
        print("left behind (or begun by somebody else meanwhile):", *ours, sep="\n")
    if ours or made["lost"]:
        sys.exit(1)


def _is_ours(leak: leaks.Leak, ids: list[str]) -> bool:
    """A cgroup tells by its name alone whose it was: another service on this machine has some, too."""
    return leak.kind != "cgroup" or any(name in leak.what for name in ids)


if __name__ == "__main__":
    main()
