"""Ways to break the promise in one line, each with the test that must notice it.

`python -m tests.faults.mutations [NAME...]` applies them, one at a time, to copies of the tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.faults.boundaries import ROOT

WITHIN_S = 900.0
_FAILED = 1  #: pytest's exit status when tests ran and some failed
_COPIED = ("rekindle", "tests", "bench", "build", "go", "docs", "examples", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    file: str
    old: str  #: must be in the file exactly once
    new: str
    test: str  #: a node id, or several, and what else pytest shall be told


KEEPER = "tests/node/test_keeper.py"
DURABILITY = "tests/driver/test_durability.py"
MUTATIONS = (
    Mutation(
        "a transition is missing: a failed resume is stuck",
        "rekindle/core/lifecycle.py",
        "    (_P.RESUMING, Fact.RESUME_FAILED): _P.SUSPENDED,\n",
        "",
        f"{KEEPER}::test_a_resume_that_fails_in_any_way_leaves_the_vm_asleep",
    ),
    Mutation(
        "a phase has no owner: nobody resumes",
        "rekindle/core/lifecycle.py",
        "    _P.RESUMING: Work.RESUME,\n",
        "",
        "tests/core/test_schedules.py tests/core/test_lifecycle.py -m 'not long'",
    ),
    Mutation(
        "the end is not final",
        "rekindle/core/lifecycle.py",
        "    (_P.TERMINATED, Ask.TERMINATE): _P.TERMINATED,\n",
        "    (_P.TERMINATED, Ask.TERMINATE): _P.TERMINATING,\n",
        "tests/core/test_schedules.py tests/core/test_lifecycle.py -m 'not long'",
    ),
    Mutation(
        "a late fact moves a row",
        "rekindle/store/microvms.py",
        'if row is None or row["phase"] != vm.phase.value:',
        "if row is None:",
        "tests/store/test_microvms.py::test_a_late_fact_is_stale_and_writes_nothing",
    ),
    Mutation(
        "a change is no new revision",
        "rekindle/store/queries/microvms.sql",
        "revision = revision + 1",
        "revision = revision",
        "tests/core/test_schedules.py tests/store/test_microvms.py -m 'not long'",
    ),
    Mutation(
        "the row says suspended before there is a snapshot",
        "rekindle/node/works.py",
        "            done = await perform.suspend(self._at, vm, handle, baked)\n",
        "            await self._store.report(vm, Fact.SUSPENDED, snapshot=vm.revision)\n"
        "            done = await perform.suspend(self._at, vm, handle, baked)\n",
        f"{KEEPER}::test_a_suspend_that_fails_in_any_way_lets_the_vm_go_on",
    ),
    Mutation(
        "a suspend that failed ends the VM",
        "rekindle/node/works.py",
        "            await self._awake_again(vm, handle, baked, err)\n",
        "            await self.lost(vm, INTERNAL, said(err))\n",
        f"{KEEPER}::test_a_suspend_that_fails_in_any_way_lets_the_vm_go_on",
    ),
    Mutation(
        "a guest that does not confirm its reseeding is served",
        "rekindle/node/confirm.py",
        "if asked.seed is not None and not thawed.seeded:",
        "if False:",
        "tests/node/test_confirm.py::test_each_step_must_be_confirmed",
    ),
    Mutation(
        "a process is ended by its pid alone",
        "rekindle/driver/process.py",
        "if started_ticks(self.pid) == self.started_ticks:",
        "if started_ticks(self.pid):",
        "tests/node/test_sweep.py::test_a_stranger_is_left_alone_when_the_vm_ends",
    ),
    Mutation(
        "a snapshot shares the layer that its VM goes on writing",
        "rekindle/driver/qemu.py",
        "await threads.finish(layers.part, vm.home)",
        "pass",
        "tests/driver/test_qemu.py::test_conformance[a_vm_goes_on_after_a_snapshot]",
    ),
    Mutation(
        "a merge writes into an older snapshot's layer",
        "rekindle/driver/layers.py",
        "if (snap / lower.file).stat().st_nlink > 1:",
        "if False:",
        "tests/driver/test_qemu.py::test_merging_never_writes_into_an_older_snapshot",
    ),
    Mutation(
        "what a crash left of a snapshot is in the way of the next try",
        "rekindle/driver/freeze.py",
        "    drop(home, into)\n    reserve.open_up(home)\n",
        "    reserve.open_up(home)\n",
        "tests/driver/test_qemu.py::test_conformance[half_a_snapshot_is_none]",
    ),
    Mutation(
        "a delta's pages are loaded unchecked",
        "rekindle/driver/delta.py",
        "if crc != delta.data_crc:",
        "if False:",
        "tests/driver/test_delta.py::test_every_flipped_byte_is_noticed",
    ),
    Mutation(
        "what a guest runs on is not read before it runs",
        "rekindle/driver/qemu.py",
        "        await whole_now\n        await _load_state(link)\n",
        "        await _load_state(link)\n",
        "tests/driver/test_whole.py::test_a_flipped_bit_of_a_sleeping_vm_is_found_and_named",
    ),
    Mutation(
        "a delta is not fsynced",
        "rekindle/driver/delta.py",
        "        os.fsync(file.fileno())\n",
        "",
        DURABILITY,
    ),
    Mutation(
        "device state is not fsynced",
        "rekindle/driver/qemu.py",
        "        await threads.finish(os.fsync, descriptor)\n",
        "",
        DURABILITY,
    ),
    Mutation(
        "a manifest is renamed in before it is durable",
        "rekindle/driver/files.py",
        "        file.flush()\n        os.fsync(file.fileno())\n    sync(path.parent)\n    new.rename(path)\n",
        "        new.rename(path)\n        file.flush()\n        os.fsync(file.fileno())\n    sync(path.parent)\n",
        DURABILITY,
    ),
    Mutation(
        "a damaged manifest is believed",
        "rekindle/driver/manifest.py",
        'if set(values) - _MEMBERS or ("digest" in values and values["digest"] != _digest_of(values)):',
        "if False:",
        "tests/driver/test_files.py::test_every_flipped_bit_of_a_manifest_is_noticed",
    ),
    Mutation(
        "a cancelled caller leaves its thread behind",
        "rekindle/threads.py",
        "        await asyncio.wait((done,))\n        raise\n",
        "        raise\n",
        "tests/test_threads.py::test_a_cancelled_caller_waits_for_its_thread",
    ),
    Mutation(
        "a row of an image goes before its files",
        "rekindle/node/removals.py",
        "            await self._remove_files(version)\n            await self._store.version_removed(version)\n",
        "            await self._store.version_removed(version)\n            await self._remove_files(version)\n",
        "tests/node/test_removals.py",
    ),
    Mutation(
        "a folder that no row names is not swept",
        "rekindle/node/sweep.py",
        'if f"{account.name}/{folder.name}" not in folders:',
        "if False:",
        "tests/node/test_removals.py::test_files_that_no_row_names_are_swept_at_the_start",
    ),
)


def survives(mutation: Mutation) -> str | None:
    """Why the mutation was not noticed; None when it was. Raises ValueError when it cannot be applied."""
    with tempfile.TemporaryDirectory(prefix="mutation") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        _apply(mutation, tree)
        done = _pytest(mutation.test, tree)
    if done.returncode == _FAILED:
        return None
    return f"{mutation.name}: pytest {mutation.test} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr}"


def apply_to(text: str, mutation: Mutation) -> str:
    """Raises ValueError when the text to replace is not there exactly once: the list is out of date."""
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has {text.count(mutation.old)} times {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


def _copy(tree: Path) -> None:
    for name in _COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, tree / name)


def _apply(mutation: Mutation, tree: Path) -> None:
    file = tree / mutation.file
    file.write_text(apply_to(file.read_text(), mutation))


def _pytest(test: str, tree: Path) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {test}"
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, shell=True, cwd=tree, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


def main() -> None:
    wanted = sys.argv[1:]
    alive = []
    for mutation in (one for one in MUTATIONS if not wanted or one.name in wanted):
        why = survives(mutation)
        print(f"{'noticed ' if why is None else 'SURVIVES'} {mutation.name}", flush=True)
        alive += [why] if why else []
    print(*alive, sep="\n")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
