"""Every query in store/queries/ is run by the store, and here, once: what nothing runs is deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rekindle.core.image import VersionStatus
from rekindle.core.lifecycle import Ask, Fact
from rekindle.core.quota import Ceilings, Room
from rekindle.store import sql
from rekindle.store.db import Store

from .rows import ACCOUNT, PORTS, REGION, HandClock, arn, image_rows, settled_connector, updated_image, vm_row

STORE = Path(sql.__file__).parent


class Noting(Mapping[str, str]):
    """The queries, and which of them were asked for."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.used.add(name)
        return self._queries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def test_every_call_has_its_query() -> None:
    code = "".join(file.read_text() for file in STORE.glob("*.py"))
    called = set(re.findall(r"\.(?:all|one|run)\(\s*\"(\w+)\"", code))
    assert called == {name for name in sql.queries() if not name.startswith("invariant_")}


async def test_every_query_runs(store: Store, clock: HandClock) -> None:
    noting = Noting(store._db.queries)
    store._db.queries = noting
    await store.secret("cursor")
    await store.add_account(ACCOUNT, "again")
    await store.add_access_key("AKIA1", "s", ACCOUNT, "x")
    await store.add_access_key("AKIA2", "s", ACCOUNT, "x")
    await store.remove_access_key("AKIA2", keep_one_of=ACCOUNT)
    await store.access_keys()
    await an_image(store)
    await a_machine(store, clock)
    await a_connector(store)
    await store.check_invariants()
    clock.pass_minutes(62)
    await store.forget_terminated(clock())
    await store.events(None, 9)
    await store.events_after(None, 0, limit=9)
    await store.events_after(arn("demo"), 0, limit=9)
    await store.delete_image(arn("demo"))
    for going in await store.versions_deleting():
        await store.version_removed(going)
    clock.pass_minutes(1)
    await store.forget_ended(clock())
    assert noting.used == set(noting)


async def an_image(store: Store) -> None:
    image, version, build = image_rows()
    await store.create_image(image, version, build, client_token="t", token_digest="d")
    version = await store.building((await store.versions_owing())[0])
    await store.built(version, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1)
    await store.images(ACCOUNT, REGION, after=None, limit=1, name_contains=None)
    await store.version(image.arn, "1.0")
    await store.versions(image.arn, after=None, limit=1)
    await store.active_version(image.arn)
    await store.build(build.id)
    await store.builds(image.arn, "1.0")
    await store.version_folders()
    await store.build_ids()
    await updated_image(store)
    await store.set_version_status(image.arn, "2.0", VersionStatus.INACTIVE)
    await store.delete_version(image.arn, "2.0")
    for going in await store.versions_deleting():
        await store.version_removed(going)


async def a_connector(store: Store) -> None:
    made = await settled_connector(store)
    await store.update_connector(made.arn, configuration=None, operator_role="r", client_token="t", token_digest="d")
    await store.find_connector(ACCOUNT, REGION, made.name)
    await store.connectors(ACCOUNT, REGION, after=None, limit=1)
    await store.connector_versions(made)
    await store.delete_connector_version(made, 1)
    await store.change_connector_tags(made.arn, {"a": "b"}, [])
    await store.change_image_tags(arn("demo"), {"a": "b"}, [])
    await store.delete_connector(made.arn)
    await store.settle_connectors()


async def a_machine(store: Store, clock: HandClock) -> None:
    ceilings, room = Ceilings(memory_mib=512), Room(guest_mib=512)
    vm = await store.run_microvm(vm_row(clock), PORTS, client_token="t", token_digest="d", ceilings=ceilings, room=room)
    await store.microvms(ACCOUNT, REGION)
    await store.owing("local")
    await store.host_booted("local", "boot")
    await store.running_since_ms(vm)
    await store.report(vm, Fact.STARTED, handle={"pid": 1})
    await store.ask(vm.id, Ask.SUSPEND)
    await store.host_booted("local", "next boot")
    await store.report(await store.ask(vm.id, Ask.TERMINATE), Fact.STOPPED)
    await store.events(vm.id, 9)
