"""The environment of a guest's app (spec §6.3): what the platform sets wins, what it does not set is the image's."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

from tests.e2e.cloud import Cloud, Vm, interpreter_files

pytestmark = pytest.mark.slow

MINE = "AWS_REGION=mine AWS_LAMBDA_MICROVM_IMAGE_NAME=mine AWS_LAMBDA_MICROVM_IMAGE_VERSION=9.9 COLOUR=red SHAPE=round"


def test_what_the_app_finds_in_its_environment(cloud: Cloud, launch: Callable[..., Vm]) -> None:
    files = interpreter_files()
    dockerfile = files["Dockerfile"] + f"ENV {MINE}\nUSER root\n".encode()
    arn = cloud.create_image(
        "environment",
        files | {"Dockerfile": dockerfile},
        environmentVariables={"COLOUR": "green", "EMPTY": ""},
        baseImageArn="arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1",
        logging={"cloudWatch": {"logGroup": "/mine"}},
    )
    cloud.built(arn)
    vm = launch(imageIdentifier=arn, executionRoleArn="arn:aws:iam::000000000000:role/run")
    found = ast.literal_eval(vm.snippet("import os; dict(os.environ)"))
    expected = {
        "AWS_REGION": "us-east-1",
        "AWS_LAMBDA_MICROVM_IMAGE_NAME": "environment",
        "AWS_LAMBDA_MICROVM_IMAGE_ARN": arn,
        "AWS_LAMBDA_MICROVM_IMAGE_VERSION": "1.0",
        "COLOUR": "green",
        "SHAPE": "round",
        "EMPTY": "",
        "HOME": "/root",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "/usr/bin" in found["PATH"].split(":")
    assert not [name for name in found if name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_CONTAINER", "AWS_SESSION"))]
    assert not [name for name, value in found.items() if vm.id in value]
    with pytest.raises(cloud.client().exceptions.ValidationException, match="'AWS_REGION' is reserved"):
        cloud.create_image("reserved", files, environmentVariables={"AWS_REGION": "x"})
    told = [event["why"] for event in cloud.inspect(vm.id)["events"] if event["what"] == "note"]
    assert told == ["executionRoleArn is not assumed: the guest has no AWS credentials."]
    vm.terminate()
    assert "/mine" in cloud.cli("image", "inspect", "environment").stdout
    cloud.cli("image", "rm", arn)
