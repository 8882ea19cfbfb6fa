"""What the walls cost: the start of a jailed program beside the start of the same program without.

python -m bench.jail TREE [--times N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import time
from pathlib import Path

from rekindle import binaries
from rekindle.driver import jail, process
from rekindle.driver.jail import Program, Walls
from rekindle.driver.probe import tree_program


async def _jailed(launcher: Path, tree: Path, uid: int | None) -> float:
    program = Program(tree=tree, argv=["/usr/bin/true"], binds=(), walls=Walls(uid=uid))
    before = time.perf_counter()
    who = await jail.launch(launcher, program)
    await process.wait(who)
    return 1000 * (time.perf_counter() - before)


def _bare(tree: Path) -> float:
    before = time.perf_counter()
    subprocess.run(tree_program(tree, "true"), check=True)
    return 1000 * (time.perf_counter() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--times", type=int, default=30)
    asked = parser.parse_args()
    launcher = binaries.find("rekindle-jail")
    rows = {"bare": [_bare(asked.tree) for _ in range(asked.times)]}
    modes = {"user namespace": None} | ({"own uid": 700_000} if os.geteuid() == 0 else {})
    for name, uid in modes.items():
        rows[name] = [asyncio.run(_jailed(launcher, asked.tree, uid)) for _ in range(asked.times)]
    for name, ms in rows.items():
        print(f"{name:15} median {statistics.median(ms):6.2f} ms  min {min(ms):6.2f}  max {max(ms):6.2f}")


if __name__ == "__main__":
    main()
