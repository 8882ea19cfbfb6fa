"""CreateMicrovmShellAuthToken: who may have one (recorded: spec §1.8) and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from rekindle.core.lifecycle import Ask
from rekindle.store.db import Store
from tests.store.rows import REGION, HandClock, built_image

from .test_microvms import opened
from .wire import Wire

CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
NO_SHELL = "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM."
NOT_BOTH = (
    "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or SHELL_INGRESS "
    "instead"
)


async def run(wire: Wire, store: Store, *names: str) -> str:
    image = (await built_image(store)).image_arn
    connectors = [CONNECTOR + name for name in names]
    return str((await wire.ok("RunMicrovm", imageIdentifier=image, ingressNetworkConnectors=connectors))["microvmId"])


def shell_call(vm_id: str, minutes: int = 30) -> dict[str, Any]:
    return {"microvmIdentifier": vm_id, "expirationInMinutes": minutes}


@pytest.mark.parametrize("names", [("SHELL_INGRESS",), ("HTTP_INGRESS", "SHELL_INGRESS")])
async def test_the_token_opens_a_shell_and_no_port(
    wire: Wire, store: Store, clock: HandClock, names: tuple[str, ...]
) -> None:
    vm_id = await run(wire, store, *names)
    answer = await wire.ok("CreateMicrovmShellAuthToken", **shell_call(vm_id))
    assert list(answer["authToken"]) == ["X-aws-proxy-auth"]
    claims = opened(answer["authToken"]["X-aws-proxy-auth"])
    assert claims == {"vm": vm_id, "gen": 1, "ports": [], "exp": clock() // 1000 + 1800, "use": "shell"}
    app = await wire.ok("CreateMicrovmAuthToken", **shell_call(vm_id), allowedPorts=[{"port": 8080}])
    assert opened(app["authToken"]["X-aws-proxy-auth"])["use"] == "app"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), NO_SHELL),
        (("HTTP_INGRESS",), NO_SHELL),
        (("NO_INGRESS",), NO_SHELL),
        (("ALL_INGRESS",), NO_SHELL),
        (("ALL_INGRESS", "SHELL_INGRESS"), NOT_BOTH),
        (("HTTP_INGRESS", "ALL_INGRESS"), NOT_BOTH),
    ],
)
async def test_others_get_none(wire: Wire, store: Store, names: tuple[str, ...], message: str) -> None:
    vm_id = await run(wire, store, *names)
    answer = await wire.call("CreateMicrovmShellAuthToken", **shell_call(vm_id))
    assert (answer.status, *answer.error) == (400, "ValidationException", message)


async def test_an_hour_is_the_longest(wire: Wire, store: Store) -> None:
    vm_id = await run(wire, store, "SHELL_INGRESS")
    await wire.ok("CreateMicrovmShellAuthToken", **shell_call(vm_id, 60))
    answer = await wire.call("CreateMicrovmShellAuthToken", **shell_call(vm_id, 61))
    assert answer.error == ("ValidationException", "ExpirationMinutes 61 exceeded max allowed of 60.")


async def test_a_microvm_that_is_over_has_no_shell(wire: Wire, store: Store, other: Wire) -> None:
    vm_id = await run(wire, store, "SHELL_INGRESS")
    assert (await other.call("CreateMicrovmShellAuthToken", **shell_call(vm_id))).status == 404
    await store.ask(vm_id, Ask.TERMINATE)
    answer = await wire.call("CreateMicrovmShellAuthToken", **shell_call(vm_id))
    assert (answer.status, answer.error[0]) == (409, "ConflictException")
