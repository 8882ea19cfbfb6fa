"""Every command of the real AWS CLI once, in one story. Its model is its own and older than botocore's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from botocore import xform_name

from rekindle.api import model
from rekindle.core.lifecycle import Fact
from tests.store.rows import ACCOUNT, REGION, arn

from .test_clients import AWS, Service, cli_env
from .test_clients import service as service  # a fixture
from .test_connectors import vpc
from .test_oracle import _cli
from .wire import BASE, ROLE

VMS, CORE = model.SERVICES
IMAGE, VPC = ("image-identifier", arn("demo")), ("identifier", "net")
VERSION, VM, TAGGED = ("image-version", "1.0"), ("microvm-identifier", "{vm}"), ("resource", arn("demo"))
SETTINGS = (("base-image-arn", BASE), ("build-role-arn", ROLE), ("code-artifact", '{{"uri":"s3://code/demo.zip"}}'))
SHELL = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:SHELL_INGRESS"
PORTS = ("allowed-ports", '[{{"port":8080}}]')
NET = (("configuration", json.dumps(vpc()).replace("{", "{{").replace("}", "}}")), ("operator-role", ROLE))


@dataclass(frozen=True)
class Step:
    """A command, what it is given, a member of its answer (None: no answer), and what the machine does after it."""

    command: str
    options: tuple[tuple[str, str], ...]
    shows: tuple[str, Any] | None = None
    then: str = ""
    service: str = VMS


#: `{vm}` and `{build}` stand for what earlier steps gave.
STORY = (
    Step("list-managed-microvm-images", (), then="base"),
    Step("list-managed-microvm-image-versions", (("image-identifier", BASE),), then="versions"),
    Step("create-microvm-image", (("name", "demo"), *SETTINGS), ("state", "CREATING"), "built"),
    Step("get-microvm-image", (IMAGE,), ("state", "CREATED")),
    Step("list-microvm-images", (), then="one"),
    Step("get-microvm-image-version", (IMAGE, VERSION), ("state", "SUCCESSFUL")),
    Step("list-microvm-image-versions", (IMAGE,), then="one"),
    Step("list-microvm-image-builds", (IMAGE, VERSION), then="one"),
    Step("get-microvm-image-build", (IMAGE, VERSION, ("build-id", "{build}")), ("buildState", "SUCCESSFUL")),
    Step("tag-resource", (TAGGED, ("tags", "a=1,b=2"))),
    Step("untag-resource", (TAGGED, ("tag-keys", "a"))),
    Step("list-tags", (TAGGED,), ("Tags", {"b": "2"})),
    Step("run-microvm", (IMAGE, ("ingress-network-connectors", SHELL)), ("state", "PENDING"), "started"),
    Step("get-microvm", (VM,), ("state", "RUNNING")),
    Step("list-microvms", (IMAGE,), then="one"),
    Step("create-microvm-auth-token", (VM, ("expiration-in-minutes", "5"), PORTS), then="token"),
    Step("create-microvm-shell-auth-token", (VM, ("expiration-in-minutes", "5")), then="token"),
    Step("suspend-microvm", (VM,), then="suspended"),
    Step("resume-microvm", (VM,), then="resumed"),
    Step("terminate-microvm", (VM,), then="stopped"),
    Step("update-microvm-image-version", (IMAGE, VERSION, ("status", "INACTIVE")), ("status", "INACTIVE")),
    Step("update-microvm-image", (IMAGE, *SETTINGS), ("imageVersion", "2.0"), "built"),
    Step("delete-microvm-image-version", (IMAGE, VERSION), ("state", "DELETING"), "removed"),
    Step("delete-microvm-image", (IMAGE,), ("state", "DELETING")),
    Step("create-network-connector", (("name", "net"), *NET), ("State", "PENDING"), "settled", CORE),
    Step("get-network-connector", (VPC,), ("State", "ACTIVE"), service=CORE),
    Step("list-network-connectors", (), service=CORE),
    Step("update-network-connector", (VPC, *NET), ("State", "ACTIVE"), service=CORE),
    Step("delete-network-connector", (VPC,), ("State", "DELETING"), service=CORE),
)


def test_no_command_is_forgotten() -> None:
    known = {(one, xform_name(name, "-")) for one in model.SERVICES for name in _cli(one).operation_names}
    assert {(step.service, step.command) for step in STORY} == known
    assert len(STORY) == 29


@pytest.mark.slow
def test_every_command_does_its_work(service: Service) -> None:
    given: dict[str, str] = {}
    for step in STORY:
        answer = aws(service, step, given)
        if step.shows is not None:
            member, value = step.shows
            assert answer[member] == value, (step.command, answer)
        if step.then:
            THEN[step.then](service, answer, given)


def aws(service: Service, step: Step, given: Mapping[str, str]) -> Any:
    env = cli_env(AWS_ENDPOINT_URL=service.url)
    words = [word for name, value in step.options for word in (f"--{name}", value.format_map(given))]
    done = subprocess.run(
        [AWS, step.service, step.command, *words], env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, ""), (step.command, done.stderr)
    return json.loads(done.stdout) if done.stdout else {}


# --- what the machine does meanwhile, and what is kept of an answer


def _built(service: Service, answer: Any, _: dict[str, str]) -> None:
    version = service.on(service.store.version(arn("demo"), answer["imageVersion"]))
    assert version is not None
    version = service.on(service.store.building(version))
    sizes = {"memory_snapshot_bytes": 3, "disk_snapshot_bytes": 2, "code_install_bytes": 1}
    service.on(service.store.built(version, folder=f"{ACCOUNT}/demo-{version.version}", **sizes))


def _removed(service: Service, _: Any, __: dict[str, str]) -> None:
    for version in service.on(service.store.versions_deleting()):
        service.on(service.store.version_removed(version))


def _started(service: Service, answer: Any, given: dict[str, str]) -> None:
    given["vm"] = answer["microvmId"]
    service.on(service.find(given["vm"], Fact.STARTED))


def _one(_: Service, answer: Any, given: dict[str, str]) -> None:
    (item,) = answer["items"]
    given["build"] = item.get("buildId", given.get("build", ""))


def _base(_: Service, answer: Any, __: dict[str, str]) -> None:
    assert BASE in [item["imageArn"] for item in answer["items"]]


def _versions(_: Service, answer: Any, __: dict[str, str]) -> None:
    assert [item["imageVersion"] for item in answer["items"]] == ["1"]


def _token(_: Service, answer: Any, __: dict[str, str]) -> None:
    assert list(answer["authToken"]) == ["X-aws-proxy-auth"]


THEN: Mapping[str, Callable[[Service, Any, dict[str, str]], object]] = {
    "base": _base,
    "versions": _versions,
    "built": _built,
    "removed": _removed,
    "one": _one,
    "started": _started,
    "token": _token,
    "suspended": lambda service, _, given: service.on(service.find(given["vm"], Fact.SUSPENDED)),
    "resumed": lambda service, _, given: service.on(service.find(given["vm"], Fact.RESUMED)),
    "stopped": lambda service, _, given: service.on(service.find(given["vm"], Fact.STOPPED)),
    "settled": lambda service, _, __: service.on(service.store.settle_connectors()),
}
