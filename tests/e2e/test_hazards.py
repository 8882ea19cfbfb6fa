"""The table of docs/clones.md on real clones: what differs by itself, what differs by the preload, what is the app's.

One image (the example interpreter with `hazards/before.py` loaded first), two clones of it, one sleep.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.speaker import compile_go
from rekindle.node.confirm import boot_id_of
from tests.accel import LAYERS, PROGRAMS
from tests.e2e.cloud import HOOKS, ROOT, Cloud, Vm, interpreter_files
from tests.e2e.conftest import IDLE
from tests.waiting import until

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent / "hazards"
RUN = 'ENV PYTHONPATH=/opt/interpreter\nCMD ["python3", "-c", "import before, app; app.main()"]\n'
Facts = dict[str, Any]
#: What `hazards/java` draws: by name, what two clones have in common and what not.
JAVA_AGREES = (
    *("drbg_old", "drbg_new", "drbg_reseeded", "sha1_old", "sha1_new"),
    *("math", "shuffle", "random_old", "thread_local", "thread_local_new"),
    *("splittable_old", "splittable_new", "generator_old", "generator_new"),
)
JAVA_DIFFERS = (
    *("kernel", "secure_old", "secure_new", "strong_old", "strong_new", "uuid"),
    *("drbg_predicting", "drbg_seeded", "sha1_seeded", "random_seeded"),
    "random_new",  # by the nanosecond at which it was made, and by nothing else
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A static Go program."""
    if PROGRAMS is not None:
        return (PROGRAMS / "worker").read_bytes()
    program = tmp_path_factory.mktemp("worker") / "worker"
    compile_go(ROOT / "go", str(FOLDER / "worker.go"), program)
    return program.read_bytes()


@pytest.fixture(scope="module")
def pair(cloud: Cloud, worker: bytes) -> Iterator[tuple[Vm, Vm]]:
    """Two clones. The image has no runtime hooks: nobody but Rekindle does anything at their thaw."""
    files = interpreter_files()
    files["Dockerfile"] += (
        b"COPY before.py tickets.py /opt/interpreter/\nCOPY --chmod=755 worker /opt/interpreter/\n" + RUN.encode()
    )
    files |= {name: (FOLDER / name).read_bytes() for name in ("before.py", "tickets.py")} | {"worker": worker}
    hooks = {name: HOOKS[name] for name in ("port", "microvmImageHooks")}
    arn = cloud.built(cloud.create_image("hazards", files, hooks=hooks))
    made = tuple(cloud.run(arn, idlePolicy=IDLE) for _ in range(2))
    yield made[0], made[1]
    for vm in made:
        vm.terminate()
    cloud.cli("image", "rm", arn)


def facts_of(vm: Vm) -> Facts:
    facts: Facts = json.loads(ast.literal_eval(vm.snippet("import before, json; json.dumps(before.facts())")))
    return facts


@pytest.fixture(scope="module")
def facts(pair: tuple[Vm, Vm]) -> tuple[Facts, Facts]:
    return facts_of(pair[0]), facts_of(pair[1])


@pytest.fixture(scope="module")
def slept(pair: tuple[Vm, Vm], facts: tuple[Facts, Facts]) -> tuple[Facts, Facts]:
    """The first clone before and after a sleep."""
    pair[0].suspend()
    return facts[0], facts_of(pair[0])


def equal(facts: tuple[Facts, Facts], *path: str) -> bool:
    one, two = facts
    for name in path:
        one, two = one[name], two[name]
    return bool(one == two)


@pytest.mark.parametrize("name", ["kernel", "secrets", "uuid"])
def test_what_draws_from_the_kernel_differs(facts: tuple[Facts, Facts], name: str) -> None:
    """Although the process has drawn before the snapshot: whatever the C library had in stock is stale."""
    assert not equal(facts, name)


def test_what_was_drawn_before_the_snapshot_is_common(facts: tuple[Facts, Facts]) -> None:
    assert equal(facts, "old_uuid")


@pytest.mark.parametrize("name", ["random", "choice", "gauss", "unseeded", "openssl"])
def test_pythons_generators_agree_without_the_preload_and_differ_with_it(facts: tuple[Facts, Facts], name: str) -> None:
    assert equal(facts, "plain", name)
    assert not equal(facts, "preloaded", name)


@pytest.mark.parametrize("program", ["plain", "preloaded"])
def test_a_seed_of_the_apps_own_stays(facts: tuple[Facts, Facts], program: str) -> None:
    assert equal(facts, program, "own")
    assert equal((facts[0]["plain"], facts[0]["preloaded"]), "own")
    assert not equal(facts, program, "secrets")


def test_go_differs_in_crypto_rand_and_agrees_in_math_rand(facts: tuple[Facts, Facts]) -> None:
    assert not equal(facts, "go", "crypto")
    assert equal(facts, "go", "math")
    assert equal(facts, "go", "v2")


def test_names_and_ids_are_each_machines_own(facts: tuple[Facts, Facts], pair: tuple[Vm, Vm]) -> None:
    for name in ("hostname", "machine_id", "boot_id"):
        assert not equal(facts, name), name
    for one, vm in zip(facts, pair, strict=True):
        assert one["hostname"] == one["hostname_file"] == vm.id[:16]
        assert one["boot_id"] == boot_id_of(one["machine_id"])


def test_addresses_are_common_and_lead_nowhere_but_to_the_guest_itself(facts: tuple[Facts, Facts]) -> None:
    assert equal(facts, "addresses")
    assert "127.0.0.1" in facts[0]["addresses"]


def test_a_tls_server_from_before_shares_its_ticket_keys_and_a_new_one_needs_the_preload(
    facts: tuple[Facts, Facts],
) -> None:
    assert equal(facts, "tickets")
    assert equal(facts, "plain", "tickets")
    assert not equal(facts, "preloaded", "tickets")


def test_locks_and_listeners_live_on_and_disks_are_apart(pair: tuple[Vm, Vm], facts: tuple[Facts, Facts]) -> None:
    for number, vm in enumerate(pair):
        assert facts[number]["locked"]
        assert facts[number]["listener"]
        assert facts[number]["owner"] is None
        vm.snippet(f"open('/tmp/owner', 'w').write({vm.id!r})")
    assert [facts_of(vm)["owner"] for vm in pair] == [vm.id for vm in pair]


def test_an_app_hears_of_its_thaw(pair: tuple[Vm, Vm], slept: tuple[Facts, Facts]) -> None:
    before, after = (one["generation"] for one in slept)
    assert (before["first"], after["first"]) == (True, False)
    assert after["generation"] == before["generation"] + 1
    assert after["thawed_at_ms"] > before["thawed_at_ms"]
    assert [one["counter"] for one in slept] == [before["generation"], after["generation"]]
    until(lambda: facts_of(pair[0])["heard"] == [after["generation"]], 20, "the watcher has heard")


def test_monotonic_and_boottime_do_not_count_the_gap_and_the_app_is_told_of_it(
    facts: tuple[Facts, Facts], slept: tuple[Facts, Facts]
) -> None:
    """A deviation from AWS, where all three advance."""
    for one in (*facts, slept[1]):
        passed = {name: one["clocks"][name] - one["clocks_then"][name] for name in one["clocks"]}
        gap_s = (one["generation"]["total_gap_ms"] - one["total_gap_then_ms"]) / 1000
        assert gap_s > 0
        for name in ("monotonic", "boottime"):
            assert passed["wall"] - passed[name] == pytest.approx(gap_s, abs=0.2), name
    assert slept[1]["generation"]["gap_ms"] > 0


def test_timers_go_on_and_those_that_want_to_know_hear_of_the_jump(slept: tuple[Facts, Facts]) -> None:
    for one in slept:
        assert not one["alarm"]
    assert slept[0]["timer"] == "Operation canceled"


def test_a_vm_keeps_its_identity_over_a_sleep(slept: tuple[Facts, Facts]) -> None:
    for name in ("hostname", "machine_id", "boot_id", "old_uuid", "locked", "listener", "tickets"):
        assert equal(slept, name), name


@pytest.mark.long
def test_node_agrees_but_for_what_it_reads_from_the_kernel(cloud: Cloud) -> None:
    one, two = drawn_by_two(cloud, "node")
    assert one["crypto"] == two["crypto"]
    assert one["math"] == two["math"]
    assert one["kernel"] != two["kernel"]


@pytest.mark.long
@pytest.mark.skipif(LAYERS is not None, reason="no packages are to be had here, and a JDK is too large to be lent")
def test_java_agrees_but_for_what_is_mixed_with_the_kernels(cloud: Cloud) -> None:
    one, two = drawn_by_two(cloud, "java")
    assert one.keys() == {"algorithm", *JAVA_AGREES, *JAVA_DIFFERS}
    assert one["algorithm"] == "NativePRNG"
    assert [name for name in JAVA_AGREES if one[name] != two[name]] == []
    assert [name for name in JAVA_DIFFERS if one[name] == two[name]] == []


def drawn_by_two(cloud: Cloud, name: str) -> tuple[Facts, Facts]:
    """The first answers of two clones of `hazards/<name>`, an app that has drawn before its image was frozen."""
    files = {path.name: path.read_bytes() for path in (FOLDER / name).iterdir()}
    ready = {"port": 9000, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 300}}
    arn = cloud.built(cloud.create_image(name, files, hooks=ready), 600)
    vms = [cloud.run(arn, idlePolicy=IDLE) for _ in range(2)]
    one, two = (vm.get("/") for vm in vms)
    for vm in vms:
        vm.terminate()
    cloud.cli("image", "rm", arn)
    return one, two
