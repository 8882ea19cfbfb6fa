"""VPC network connectors and their versions. Who uses one is asked in the transaction that deletes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rekindle.clock import Clock
from rekindle.core.connector import Connector, ConnectorState, ConnectorVersion, UpdateStatus
from rekindle.core.errors import NotFound, Refused
from rekindle.core.microvm import SERVICE, Event
from rekindle.core.quota import NO_CEILINGS, Ceilings
from rekindle.store import events, quotas, tokens
from rekindle.store.database import Database, Row, columns
from rekindle.store.tokens import Asked

_CREATE, _UPDATE = "CreateNetworkConnector", "UpdateNetworkConnector"
UNCHANGED = "No configuration changes detected"


class Connectors:
    _db: Database
    _clock: Clock

    async def create_connector(
        self,
        connector: Connector,
        *,
        client_token: str,
        token_digest: str,
        ceilings: Ceilings = NO_CEILINGS,
        by: str = SERVICE,
    ) -> Connector:
        """Write the row and its version 1, or return what the same client token made before.

        Raises Refused when the name is taken in this account and region, or the client token was used with other
        parameters; OverQuota when the account has as many as it may.
        """
        asked = Asked(_CREATE, connector.account, connector.region, client_token, token_digest)
        with self._db.transaction():
            made = tokens.earlier(self._db, asked, self._clock())
            if made is not None:
                return self._read_connector(made)
            if not self._db.run("add_connector", **_row(connector)):
                raise Refused(f"A network connector with the name '{connector.name}' already exists in this account")
            quotas.connectors(self._db, connector.account, ceilings)
            self._keep_connector_version(connector)
            tokens.remember(self._db, asked, connector.arn, self._clock())
            self._tell_connector(connector, connector.state.value, "asked to create", by)
        return connector

    async def connector(self, arn: str) -> Connector | None:
        row = self._db.one("connector", arn=arn)
        return None if row is None else _connector(row)

    async def find_connector(self, account: str, region: str, identifier: str) -> Connector | None:
        """By id or name."""
        row = self._db.one("connector_by_id_or_name", account=account, region=region, identifier=identifier)
        return None if row is None else _connector(row)

    async def connectors(
        self, account: str, region: str, *, after: str | None, limit: int, state: str | None = None
    ) -> list[Connector]:
        """By name, beginning behind the name `after`."""
        rows = self._db.all("connectors", account=account, region=region, after=after or "", limit=limit, state=state)
        return [_connector(row) for row in rows]

    async def connector_version(self, connector: Connector, number: int) -> ConnectorVersion | None:
        row = self._db.one("connector_version", connector=connector.id, number=number)
        return None if row is None else _version(row)

    async def connector_versions(self, connector: Connector) -> list[ConnectorVersion]:
        """All of them, newest first."""
        return [_version(row) for row in self._db.all("connector_versions", connector=connector.id)]

    async def update_connector(
        self,
        arn: str,
        *,
        configuration: Mapping[str, object] | None,
        operator_role: str | None,
        client_token: str | None,
        token_digest: str,
        ceilings: Ceilings = NO_CEILINGS,
        by: str = SERVICE,
    ) -> Connector:
        """A new version of it, unless nothing is different or the same client token asked before; None: as it is.

        Raises NotFound, Refused while it is not ACTIVE or an earlier update goes on, or OverQuota when it has as many
        versions as it may.
        """
        with self._db.transaction():
            now = self._read_connector(arn)
            asked = Asked(_UPDATE, now.account, now.region, client_token, token_digest)
            if tokens.earlier(self._db, asked, self._clock()) is not None:
                return now
            if now.state is not ConnectorState.ACTIVE:
                raise Refused(f"Network connector {arn} cannot be updated while it is {now.state.value}")
            if now.last_update_status is UpdateStatus.IN_PROGRESS:
                raise Refused(f"Network connector {arn} is being updated")
            configuration, operator_role = configuration or now.configuration, operator_role or now.operator_role
            new = self._changed_connector(now, configuration, operator_role, by)
            quotas.connector_versions(self._db, now.id, ceilings)
            tokens.remember(self._db, asked, arn, self._clock())
        return new

    async def delete_connector(self, arn: str, *, by: str = SERVICE) -> Connector:
        """It is DELETING from now on; nothing happens when it was already.

        Raises NotFound, or Refused while a microVM or image version uses it, or it is PENDING.
        """
        with self._db.transaction():
            now = self._read_connector(arn)
            if now.state is ConnectorState.DELETING:
                return now
            if now.state is ConnectorState.PENDING:
                raise Refused(f"Network connector {arn} cannot be deleted while it is {now.state.value}")
            self._refuse_used_connector(now, arn, arn)
            return self._move_connector(now, replace(now, state=ConnectorState.DELETING), "asked to delete", by)

    async def delete_connector_version(
        self, connector: Connector, number: int, *, by: str = SERVICE
    ) -> ConnectorVersion:
        """What it was; it is gone. Raises NotFound, or Refused for the latest version or one that is used."""
        named = f"{connector.arn}:{number}"
        with self._db.transaction():
            row = self._db.one("connector_version", connector=connector.id, number=number)
            if row is None:
                raise NotFound(f"Network connector not found for: {named}")
            if number == self._read_connector(connector.arn).number:
                raise Refused(f"{named} is the latest version: it goes only with its connector")
            self._refuse_used_connector(connector, named, json.dumps(named))
            self._db.run("delete_connector_version", connector=connector.id, number=number)
            self._tell_connector(connector, f"version {number} deleted", "asked to delete", by)
        return _version(row)

    async def settle_connectors(self) -> list[str]:
        """Do all that connectors owe: PENDING and updating ones become ACTIVE, DELETING ones are gone. What was done.

        There is no VPC behind them, so nothing of it can fail or last.
        """
        if self._db.one("connectors_owing") is None:
            return []
        with self._db.transaction():
            return [self._settle_connector(_connector(row)) for row in self._db.all("connectors_owing")]

    def _settle_connector(self, now: Connector) -> str:
        if now.state is ConnectorState.DELETING:
            self._db.run("delete_connector_versions", connector=now.id)
            self._db.run("delete_connector", id=now.id)
            self._db.run("forget_client_tokens", subject=now.arn)
            self._tell_connector(now, "DELETED", "nothing of it is left")
            events.end(self._db, now.arn, self._clock())
            return f"{now.arn} is gone"
        new = replace(now, state=ConnectorState.ACTIVE)
        if now.last_update_status is UpdateStatus.IN_PROGRESS:
            new = replace(new, last_update_status=UpdateStatus.SUCCESSFUL)
        self._move_connector(now, new, None)
        return f"{now.arn} version {now.number} is ACTIVE"

    def _changed_connector(
        self, now: Connector, configuration: Mapping[str, object], operator_role: str, by: str
    ) -> Connector:
        if (configuration, operator_role) == (now.configuration, now.operator_role):
            quiet = replace(now, last_update_status=UpdateStatus.SUCCESSFUL, last_update_reason=UNCHANGED)
            return self._move_connector(now, quiet, None, by)
        new = replace(
            now,
            number=now.number + 1,
            configuration=configuration,
            operator_role=operator_role,
            updated_at_ms=self._clock(),
            last_update_status=UpdateStatus.IN_PROGRESS,
            last_update_reason=None,
        )
        values = _row(new)
        self._db.run(
            "change_connector",
            **{name: values[name] for name in ("id", "number", "configuration", "operator_role", "updated_at_ms")},
        )
        self._keep_connector_version(new)
        return self._move_connector(now, new, "asked to update", by)

    def _move_connector(self, old: Connector, new: Connector, why: str | None, by: str = SERVICE) -> Connector:
        status = new.last_update_status and new.last_update_status.value
        self._db.run(
            "move_connector",
            id=new.id,
            state=new.state.value,
            last_update_status=status,
            last_update_reason=new.last_update_reason,
        )
        if new.state is not old.state:
            self._tell_connector(new, f"{old.state.value} -> {new.state.value}", why, by)
        elif new.last_update_status is not old.last_update_status or new.last_update_reason != old.last_update_reason:
            self._tell_connector(new, f"update to version {new.number} {status}", why or new.last_update_reason, by)
        return new

    def _refuse_used_connector(self, connector: Connector, arn: str, written: str) -> None:
        user = self._db.one("connector_user", account=connector.account, region=connector.region, written=written)
        if user is not None:
            raise Refused(f"Network connector {arn} is used by {user['name']}")

    def _keep_connector_version(self, connector: Connector) -> None:
        self._db.run(
            "add_connector_version",
            connector=connector.id,
            number=connector.number,
            configuration=json.dumps(connector.configuration),
            operator_role=connector.operator_role,
            created_at_ms=connector.updated_at_ms,
        )

    def _read_connector(self, arn: str) -> Connector:
        row = self._db.one("connector", arn=arn)
        if row is None:
            raise NotFound(f"Network connector not found for: {arn}")
        return _connector(row)

    def _tell_connector(self, connector: Connector, what: str, why: str | None, by: str = SERVICE) -> None:
        events.write(self._db, Event(subject=connector.arn, at_ms=self._clock(), what=what, why=why, by=by))


def _row(connector: Connector) -> dict[str, Any]:
    return columns(connector) | {
        "state": connector.state.value,
        "configuration": json.dumps(connector.configuration),
        "tags": json.dumps(dict(connector.tags)),
        "last_update_status": connector.last_update_status and connector.last_update_status.value,
    }


def _connector(row: Row) -> Connector:
    values = dict(row)
    values["state"] = ConnectorState(values["state"])
    if values["last_update_status"] is not None:
        values["last_update_status"] = UpdateStatus(values["last_update_status"])
    for name in ("configuration", "tags"):
        values[name] = json.loads(values[name])
    return Connector(**values)


def _version(row: Row) -> ConnectorVersion:
    return ConnectorVersion(**(dict(row) | {"configuration": json.loads(row["configuration"])}))
