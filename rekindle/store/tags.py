"""Tags of images and connectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from rekindle.core import tags
from rekindle.core.errors import NotFound, Refused
from rekindle.store.database import Database, Row

_DELETING = "DELETING"


class Tags:
    _db: Database

    async def image_tags(self, arn: str) -> Mapping[str, str]:
        """Raises NotFound."""
        return _tags(self._image_row(arn))

    async def connector_tags(self, arn: str) -> Mapping[str, str]:
        """Raises NotFound."""
        return _tags(self._connector_row(arn))

    async def change_image_tags(self, arn: str, add: Mapping[str, str], remove: Iterable[str]) -> None:
        """Raises NotFound, Refused while it is DELETING, or Invalid as `core.tags.changed`."""
        with self._db.transaction():
            self._db.run("set_image_tags", arn=arn, tags=_changed(self._image_row(arn), add, remove))

    async def change_connector_tags(self, arn: str, add: Mapping[str, str], remove: Iterable[str]) -> None:
        """Raises as `change_image_tags`."""
        with self._db.transaction():
            self._db.run("set_connector_tags", arn=arn, tags=_changed(self._connector_row(arn), add, remove))

    def _image_row(self, arn: str) -> Row:
        row = self._db.one("image", arn=arn)
        if row is None:
            raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
        return row

    def _connector_row(self, arn: str) -> Row:
        row = self._db.one("connector", arn=arn)
        if row is None:
            raise NotFound(f"Network connector not found for: {arn}")
        return row


def _tags(row: Row) -> dict[str, str]:
    return dict(json.loads(row["tags"] or "{}"))


def _changed(row: Row, add: Mapping[str, str], remove: Iterable[str]) -> str:
    if row["state"] == _DELETING:
        raise Refused(f"The tags of {row['arn']} cannot be changed while it is {_DELETING}")
    return json.dumps(dict(tags.changed(_tags(row), add, remove)))
