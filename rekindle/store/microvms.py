"""microVM rows. Every change is a compare-and-swap and leaves an event in the same transaction."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, TypedDict, Unpack

from rekindle.clock import Clock
from rekindle.core.errors import NoCapacity, NotFound, Stale
from rekindle.core.lifecycle import OWES, Ask, Fact, Phase, advance
from rekindle.core.microvm import SERVICE, Event, IdlePolicy, MicroVM
from rekindle.core.quota import NO_CEILINGS, NO_LIMIT, Ceilings, Room
from rekindle.store import events, quotas, tokens
from rekindle.store.database import Database, Row, columns
from rekindle.store.tokens import Asked

_RUN = "RunMicrovm"
#: A token lives 60 minutes at most (spec §1.4); one minute more for clocks that disagree.
PORT_REST_MS = 61 * 60 * 1000
ENDED_WELL = "Success."
LOST = "Internal service error."


class Changes(TypedDict, total=False):
    """What the node may write besides the phase."""

    handle: Mapping[str, object] | None
    snapshot: int | None
    suspended_at_ms: int | None
    terminated_at_ms: int | None
    state_reason: str | None
    endpoint_port: int
    generation: int


class MicroVMs:
    _db: Database
    _clock: Clock

    async def run_microvm(
        self,
        vm: MicroVM,
        ports: range,
        *,
        client_token: str | None,
        token_digest: str,
        ceilings: Ceilings = NO_CEILINGS,
        room: Room = NO_LIMIT,
        note: str | None = None,
        by: str = SERVICE,
    ) -> MicroVM:
        """Write the row with an endpoint port of its own, or return what the same client token made before.

        `note`: for the microVM's story; `by`: who asked, for the same.

        Raises OverQuota when the account has all it may have, NoCapacity when no port is free or the machine has no
        memory for it, Refused when the client token was used with other parameters.
        """
        asked = Asked(_RUN, vm.account, vm.region, client_token, token_digest)
        with self._db.transaction():
            made = tokens.earlier(self._db, asked, self._clock())
            if made is not None:
                return self._read(made)
            if self._db.one("launchable", image_arn=vm.image_arn, version=vm.image_version) is None:
                raise NotFound(
                    f"No active version found for MicroVM image {vm.image_arn} and version {vm.image_version}"
                )
            vm = replace(vm, endpoint_port=self._free_port(vm.node, ports))
            self._db.run("add_microvm", **_row(vm))
            quotas.microvms(self._db, vm.account, ceilings)
            quotas.room(self._db, vm.node, room)
            tokens.remember(self._db, asked, vm.id, self._clock())
            self._tell_vm(vm, vm.phase.value, "asked to run", by)
            if note is not None:
                self._tell_vm(vm, events.NOTE, note)
        return vm

    async def ran_before(
        self, account: str, region: str, *, client_token: str | None, token_digest: str
    ) -> MicroVM | None:
        """What the same client token made, whatever has become of its image since. Raises Refused as `run_microvm`."""
        made = tokens.earlier(self._db, Asked(_RUN, account, region, client_token, token_digest), self._clock())
        return None if made is None else self._read(made)

    async def microvm(self, vm_id: str) -> MicroVM | None:
        row = self._db.one("microvm", id=vm_id)
        return None if row is None else microvm_of(row)

    async def microvms(
        self,
        account: str,
        region: str,
        *,
        image_arn: str | None = None,
        image_version: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> list[MicroVM]:
        """Newest first, TERMINATED ones too, beginning behind the `place` of an earlier one."""
        after_ms, _, after_id = (after or "").partition(":")
        rows = self._db.all(
            "microvms",
            account=account,
            region=region,
            image_arn=image_arn,
            image_version=image_version,
            after_ms=int(after_ms) if after_ms else None,
            after_id=after_id,
            limit=limit,
        )
        return [microvm_of(row) for row in rows]

    async def all_microvms(self, node: str) -> list[MicroVM]:
        """Every microVM of the node that is not TERMINATED, of every account; oldest first."""
        return [microvm_of(row) for row in self._db.all("live_microvms", node=node)]

    async def owing(self, node: str) -> list[MicroVM]:
        """Those of the node whose phase owes work."""
        return [vm for vm in await self.all_microvms(node) if vm.phase in OWES]

    async def running_since_ms(self, vm: MicroVM) -> int:
        """When it last began to run, by its story; its start when it never did."""
        row = self._db.one("began_running", subject=vm.id)
        return vm.started_at_ms if row is None else int(row["at_ms"])

    async def ask(
        self, vm_id: str, ask: Ask, *, why: str | None = None, by: str = SERVICE, room: Room = NO_LIMIT
    ) -> MicroVM:
        """Move a microVM as a caller wishes; a no-op in the table writes nothing.

        The first TERMINATE's `why` becomes its state reason; `by` is for its story. Raises NotFound, Invalid or Refused
        as `advance` does, and NoCapacity when it would wake and the machine has no memory for it.
        """
        with self._db.transaction():
            vm = self._read(vm_id)
            after = advance(vm.id, vm.phase, ask)
            if after is vm.phase:
                return vm
            reason = (why or ENDED_WELL) if after is Phase.TERMINATING else None
            moved = self._write(vm, replace(vm, phase=after, state_reason=reason), why or f"asked to {ask.value}", by)
            if after is Phase.RESUMING:
                quotas.room(self._db, vm.node, room)
            return moved

    async def report(self, vm: MicroVM, fact: Fact, **changes: Unpack[Changes]) -> MicroVM:
        """Move a microVM as the node found it. Raises Stale, and writes nothing, when its phase is no longer vm.phase.

        Filled in when not given: `suspended_at_ms` and `terminated_at_ms` (now), `state_reason` of a loss or an end.
        """
        with self._db.transaction():
            now = self._same_phase(vm)
            after = advance(now.id, now.phase, fact)
            new = replace(_dated(replace(now, phase=after), fact, self._clock()), **changes)
            over = after in (Phase.TERMINATING, Phase.TERMINATED)
            return self._write(now, new, changes.get("state_reason") or (over and new.state_reason) or fact.value)

    async def note(self, vm: MicroVM, **changes: Unpack[Changes]) -> MicroVM:
        """Change the row without moving it. Raises Stale when its phase is no longer vm.phase."""
        with self._db.transaction():
            now = self._same_phase(vm)
            return self._write(now, replace(now, **changes), None)

    async def change_port(self, vm: MicroVM, ports: range, *, over: int = 0) -> MicroVM:
        """Somebody else holds this one: the next free endpoint port, `over` further on.

        Raises NoCapacity, or Stale like `note`.
        """
        with self._db.transaction():
            now = self._same_phase(vm)
            port = self._free_port(now.node, ports, after=now.endpoint_port, over=over)
            self._tell_vm(now, f"endpoint port {now.endpoint_port} -> {port}", "somebody else on this machine holds it")
            return self._write(now, replace(now, endpoint_port=port), None)

    async def forget_terminated(self, before_ms: int) -> list[str]:
        """Delete what ended before then, with tokens and events; their ids. Never one whose port must still rest."""
        before_ms = min(before_ms, self._clock() - PORT_REST_MS)
        with self._db.transaction():
            over = [row["id"] for row in self._db.all("terminated_before", before_ms=before_ms)]
            for vm_id in over:
                self._db.run("forget_microvm", id=vm_id)
                self._db.run("forget_client_tokens", subject=vm_id)
                self._db.run("forget_events", subject=vm_id)
        return over

    def _read(self, vm_id: str) -> MicroVM:
        row = self._db.one("microvm", id=vm_id)
        if row is None:
            raise NotFound(f"MicroVM not found: {vm_id}")
        return microvm_of(row)

    def _same_phase(self, vm: MicroVM) -> MicroVM:
        row = self._db.one("microvm", id=vm.id)
        if row is None or row["phase"] != vm.phase.value:
            raise Stale(f"{vm.id}: is {row['phase'] if row else 'gone'}, no longer {vm.phase.value}")
        return microvm_of(row)

    def _write(self, old: MicroVM, new: MicroVM, why: str | None, by: str = SERVICE) -> MicroVM:
        values = {name: value for name, value in _row(new).items() if name in _WRITTEN}
        row = self._db.one(
            "update_microvm", **values, id=old.id, from_phase=old.phase.value, from_revision=old.revision
        )
        if row is None:
            raise Stale(f"{old.id}: revision {old.revision} is over")
        if new.phase is not old.phase:
            self._tell_vm(new, f"{old.phase.value} -> {new.phase.value}", why, by)
        return microvm_of(row)

    def _tell_vm(self, vm: MicroVM, what: str, why: str | None, by: str = SERVICE) -> None:
        events.write(self._db, Event(subject=vm.id, at_ms=self._clock(), what=what, why=why, by=by))

    def _free_port(self, node: str, ports: range, *, after: int | None = None, over: int = 0) -> int:
        rows = self._db.all("used_ports", node=node, freed_before_ms=self._clock() - PORT_REST_MS)
        used = {row["endpoint_port"] for row in rows}
        start = 0 if after is None else (bisect_right(ports, after) + over) % max(1, len(ports))
        for port in chain(ports[start:], ports[:start]):
            if port not in used:
                return port
        raise NoCapacity(f"Every endpoint port from {ports.start} to {ports.stop - 1} is taken")


def place(vm: MicroVM) -> str:
    """Where a list goes on behind this one; still good when the row is gone."""
    return f"{vm.started_at_ms}:{vm.id}"


_WRITTEN = {
    "phase",
    "generation",
    "endpoint_port",
    "suspended_at_ms",
    "terminated_at_ms",
    "state_reason",
    "snapshot",
    "handle",
}


def _dated(vm: MicroVM, fact: Fact, now_ms: int) -> MicroVM:
    """What a phase says about time and reason by itself; a healthy one has no reason, whatever went wrong before."""
    if vm.phase is Phase.RUNNING:
        return replace(vm, suspended_at_ms=None, state_reason=None)
    if vm.phase is Phase.SUSPENDED:
        return replace(vm, suspended_at_ms=vm.suspended_at_ms or now_ms, state_reason=None)
    if fact is Fact.LOST:
        return replace(vm, state_reason=LOST)
    if vm.phase is Phase.TERMINATED:
        return replace(vm, terminated_at_ms=now_ms, state_reason=vm.state_reason or ENDED_WELL)
    return vm


def _row(vm: MicroVM) -> dict[str, Any]:
    values = columns(vm)
    del values["idle"]
    return values | {
        "phase": vm.phase.value,
        "max_idle_s": vm.idle and vm.idle.max_idle_s,
        "suspended_s": vm.idle and vm.idle.suspended_s,
        "auto_resume": vm.idle and vm.idle.auto_resume,
        "ingress": json.dumps(vm.ingress),
        "egress": json.dumps(vm.egress),
        "logging": None if vm.logging is None else json.dumps(dict(vm.logging)),
        "handle": None if vm.handle is None else json.dumps(dict(vm.handle)),
    }


def microvm_of(row: Row) -> MicroVM:
    """As the rows of `microvm` say."""
    values = dict(row)
    max_idle_s, suspended_s, auto_resume = (values.pop(name) for name in ("max_idle_s", "suspended_s", "auto_resume"))
    values["idle"] = None
    if max_idle_s is not None:
        values["idle"] = IdlePolicy(max_idle_s=max_idle_s, suspended_s=suspended_s, auto_resume=bool(auto_resume))
    values["phase"] = Phase(values["phase"])
    for name in ("ingress", "egress"):
        values[name] = tuple(json.loads(values[name]))
    for name in ("logging", "handle"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return MicroVM(**values)
