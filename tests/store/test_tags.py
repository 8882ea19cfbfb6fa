"""Tags are merged into what is there, in any state but DELETING."""

from __future__ import annotations

import pytest

from rekindle.core.errors import Invalid, NotFound, Refused
from rekindle.store.db import Store

from .rows import built_image, settled_connector


async def test_tags_of_an_image(store: Store) -> None:
    image = (await built_image(store)).image_arn
    await store.change_image_tags(image, {"a": "1", "team": "red"}, [])
    assert await store.image_tags(image) == {"team": "red", "a": "1"}
    await store.change_image_tags(image, {}, ["a", "none"])
    assert await store.image_tags(image) == {"team": "red"}


async def test_tags_of_a_connector(store: Store) -> None:
    connector = await settled_connector(store)
    await store.change_connector_tags(connector.arn, {"a": "1"}, [])
    assert await store.connector_tags(connector.arn) == {"team": "blue", "a": "1"}
    await store.delete_connector(connector.arn)
    with pytest.raises(Refused, match=f"The tags of {connector.arn} cannot be changed while it is DELETING"):
        await store.change_connector_tags(connector.arn, {"b": "1"}, [])
    assert await store.connector_tags(connector.arn) == {"team": "blue", "a": "1"}


async def test_what_is_not_there_has_no_tags(store: Store) -> None:
    with pytest.raises(NotFound, match="MicroVMImage not found for MicroVMImageID: x"):
        await store.image_tags("x")
    with pytest.raises(NotFound, match="MicroVMImage not found for MicroVMImageID: x"):
        await store.change_image_tags("x", {}, [])
    with pytest.raises(NotFound, match="Network connector not found for: x"):
        await store.connector_tags("x")
    with pytest.raises(NotFound, match="Network connector not found for: x"):
        await store.change_connector_tags("x", {}, [])


async def test_a_resource_has_fifty_tags_and_none_of_aws(store: Store) -> None:
    connector = await settled_connector(store)
    await store.change_connector_tags(connector.arn, {f"t{n}": "" for n in range(49)}, [])
    before = await store.connector_tags(connector.arn)
    assert len(before) == 50
    with pytest.raises(Invalid, match="at most 50 tags; this would make 51"):
        await store.change_connector_tags(connector.arn, {"more": ""}, [])
    with pytest.raises(Invalid, match="Tag key 'AWS:x' is reserved"):
        await store.change_connector_tags(connector.arn, {"AWS:x": ""}, [])
    assert await store.connector_tags(connector.arn) == before
    await store.change_connector_tags(connector.arn, {"more": ""}, ["t0"])
