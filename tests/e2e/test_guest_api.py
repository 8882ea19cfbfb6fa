"""What an app says to Rekindle about its own machine (docs/guest-api.md), said by real apps in real machines."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.cloud import Cloud, Vm
from tests.waiting import until

NO_EGRESS = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector:NO_EGRESS"
SAY = """
import http.client, json
def say(method, path="", body=None, **headers):
    there = http.client.HTTPConnection("169.254.169.254", timeout=10)
    there.request(method, "/rekindle/v1/" + path, body and json.dumps(body), {"X-Rekindle-Guest": "1"} | headers)
    answer = there.getresponse()
    return answer.status, json.loads(answer.read())
"""


def said(vm: Vm, call: str) -> tuple[int, dict[str, Any]]:
    status, answer = json.loads(ast.literal_eval(vm.snippet(f"json.dumps(say({call}))")))
    return status, answer


@pytest.fixture
def speaking(launch: Callable[..., Vm]) -> Vm:
    """Without a way out: the API is inside."""
    vm = launch(egressNetworkConnectors=[NO_EGRESS])
    vm.snippet(SAY)
    return vm


def events(cloud: Cloud, vm: Vm) -> list[tuple[str, str]]:
    return [(event["what"], event["by"]) for event in cloud.inspect(vm.id)["events"]]


def test_an_app_knows_its_machine_and_sends_it_to_sleep(speaking: Vm, cloud: Cloud) -> None:
    status, facts = said(speaking, "'GET'")
    assert status == 200
    assert facts["microvm_id"] == speaking.id
    assert facts["idle"] == {"max_idle_seconds": 900, "suspended_seconds": 3600, "auto_resume": True}
    assert facts["lease"] is None
    assert said(speaking, "'GET', **{'X-Forwarded-For': '10.0.0.1'}")[0] == 403
    assert said(speaking, "'PUT', 'lease', {'seconds': 99999}")[0] == 400
    assert said(speaking, "'PUT', 'lease', {'seconds': 600, 'name': 'train'}")[1]["lease"]["name"] == "train"

    assert said(speaking, "'POST', 'suspend'")[0] == 202
    speaking.until("SUSPENDED")
    assert ("RUNNING -> SUSPENDING", "guest") in events(cloud, speaking)

    status, awake = said(speaking, "'GET'")  # the request wakes it
    assert awake["revision"] > facts["revision"]
    assert awake["suspend_asked"] is False
    assert 0 < awake["lease"]["seconds_left"] <= 600  # its time stood still


@pytest.mark.long
def test_a_busy_lease_keeps_a_silent_vm_awake(launch: Callable[..., Vm]) -> None:
    policy = {"maxIdleDurationSeconds": 60, "suspendedDurationSeconds": 600, "autoResumeEnabled": True}
    idle, busy = launch(idlePolicy=policy), launch(idlePolicy=policy)
    for vm in (idle, busy):
        vm.until("RUNNING")
        vm.snippet(SAY)
    # Gives the lease back by itself: a request to do so would be activity.
    busy.snippet("import threading; threading.Timer(90, say, ('DELETE', 'lease')).start()")
    assert said(busy, "'PUT', 'lease', {'seconds': 3600}")[0] == 200
    idle.until("SUSPENDED", 80)
    until(lambda: busy.row()["state"] == "RUNNING", 1, "the busy one is awake")
    busy.until("SUSPENDED", 60)
