"""Bad input gives the spec's error and leaves nothing behind (the leak check runs around every test here)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files

SHELL_APP = b'FROM rekindle/debian:13\nCMD ["/bin/sh", "-c", "%s"]\n'


@pytest.fixture
def failing(cloud: Cloud) -> Callable[..., str]:
    """Creates an image that must fail; gives its state reason."""

    def build(name: str, files: dict[str, bytes], **members: Any) -> str:
        arn = cloud.create_image(name, files, **members)
        result = cloud.settled(arn)
        assert result["buildState"] == "FAILED"
        assert cloud.client().get_microvm_image(imageIdentifier=arn)["state"] == "CREATE_FAILED"
        return str(result["stateReason"])

    return build


def test_an_archive_without_a_dockerfile(failing: Callable[..., str]) -> None:
    assert failing("no-dockerfile", {"app.py": b""}).startswith("ARCHIVE_DOCKERFILE_NOT_FOUND")


def test_a_failing_run_names_its_step(failing: Callable[..., str]) -> None:
    reason = failing(
        "failing-run", {"Dockerfile": b'FROM rekindle/debian:13\nRUN echo before\nRUN exit 7\nCMD ["true"]\n'}
    )
    assert reason.startswith("CONTAINER_BUILD_FAILED")
    assert "RUN exit 7" in reason
    assert "7" in reason


def test_an_app_that_exits_before_it_is_ready(failing: Callable[..., str]) -> None:
    hooks = HOOKS | {"microvmHooks": {}}
    reason = failing("exits", {"Dockerfile": SHELL_APP % b"exit 3"}, hooks=hooks)
    assert "exited with code 3" in reason


def test_a_ready_hook_that_never_answers(failing: Callable[..., str]) -> None:
    hooks = {"port": 9000, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 3}}
    reason = failing("never-ready", {"Dockerfile": SHELL_APP % b"exec sleep 1000"}, hooks=hooks)
    assert reason.endswith("Ready hook invocation timed out after PT3S")


def test_an_artifact_that_is_not_there(cloud: Cloud) -> None:
    arn = cloud.create_image("no-key", {"Dockerfile": b""}, codeArtifact={"uri": "s3://artifacts/nowhere.zip"})
    assert cloud.settled(arn)["stateReason"].startswith("S3_NO_SUCH_KEY")
    arn = cloud.create_image("no-bucket", {"Dockerfile": b""}, codeArtifact={"uri": "s3://no-such-bucket-here/x.zip"})
    assert cloud.settled(arn)["stateReason"].startswith("S3_NO_SUCH_BUCKET")


def test_builds_are_off_until_the_operator_says_otherwise(cloud: Cloud) -> None:
    cloud.configure(build='trust = "nobody"')
    cloud.stop()
    try:
        cloud.start()
        arn = cloud.create_image("untrusted", {"Dockerfile": b"FROM rekindle/debian:13\nRUN true\n"})
        reason = cloud.settled(arn)["stateReason"]
    finally:
        cloud.configure()
        cloud.stop()
        cloud.start()
    assert reason.startswith("CONTAINER_BUILD_FAILED")
    assert 'build.trust = "operator"' in reason


def test_an_unknown_image(cloud: Cloud) -> None:
    arn = "arn:aws:lambda:us-east-1:000000000000:microvm-image:nowhere"
    with pytest.raises(ClientError, match=f"No active version found for MicroVM image {arn}"):
        cloud.client().run_microvm(imageIdentifier=arn)


def test_the_endpoint_refuses_as_the_spec_says(vm_running: Vm, launch: Callable[..., Vm]) -> None:
    other = launch()
    vm_running.get()
    good = vm_running.headers["X-aws-proxy-auth"]
    with vm_running.http() as session:
        del session.headers["X-aws-proxy-auth"]
        cases = [
            ({}, 403, "Request missing authentication"),
            ({"X-aws-proxy-auth": "not-a-token"}, 403, "Request missing authentication"),
            (other.token(), 403, "Token authentication failed"),
            ({"X-aws-proxy-auth": good, "X-aws-proxy-port": "9000"}, 403, "Access to port denied"),
            ({"X-aws-proxy-auth": good, "X-aws-proxy-port": "eight"}, 400, None),
        ]
        for headers, status, text in cases:
            answer = session.get("/state", headers=headers)
            assert answer.status_code == status, (headers, answer.text)
            assert text is None or answer.text == text
            assert answer.headers["x-amzn-requestid"]
    with vm_running.http() as session:
        answer = session.get("/", headers=vm_running.token(8081) | {"X-aws-proxy-port": "8081"})
        assert (answer.status_code, answer.content) == (502, b"")
        assert answer.headers["x-aws-proxy-error"] == "APP_CONNECT_FAILED"


def test_a_payload_over_the_limit_is_refused(launch: Callable[..., Vm]) -> None:
    with pytest.raises(ClientError, match="runHookPayload"):
        launch(runHookPayload="x" * 4097)


ANSWERS_500 = "import sys; sys.modules['__main__'].Session.hook = lambda *_: 500"


def test_a_failing_suspend_hook_terminates_as_on_aws(vm_running: Vm) -> None:
    vm_running.snippet(ANSWERS_500)
    vm_running.cloud.client().suspend_microvm(microvmIdentifier=vm_running.id)
    reason = vm_running.until("TERMINATED")["stateReason"]
    assert reason.startswith("Suspend lifecycle hook returned HTTP status 500.")


def test_an_app_that_exits_in_its_suspend_hook_is_told_as_that(vm_running: Vm) -> None:
    vm_running.snippet("import os, sys; sys.modules['__main__'].Session.hook = lambda *_: os._exit(7)")
    vm_running.cloud.client().suspend_microvm(microvmIdentifier=vm_running.id)
    assert vm_running.until("TERMINATED")["stateReason"] == "Container Stopped with Exit Code: 7"


def test_a_failing_resume_hook_answers_502_and_sleeps_on(vm_running: Vm) -> None:
    hook = "module = sys.modules['__main__']; old = module.Session.hook; module.Session.hook = "
    vm_running.snippet(f"import sys; {hook}lambda self, name, body: 500 if name == 'resume' else old(self, name, body)")
    vm_running.suspend()
    with vm_running.http() as session:
        assert session.get("/state").status_code == 502
    row = vm_running.row()
    assert row["state"] == "SUSPENDED"
    assert row["stateReason"].startswith("Resume lifecycle hook returned HTTP status 500.")


def test_a_failing_run_hook_terminates(cloud: Cloud, image: str, launch: Callable[..., Vm]) -> None:
    files = interpreter_files()
    failing = files["app.py"].replace(b'if name == "run":', b'if name == "run":\n            return 500\n        if 0:')
    assert failing != files["app.py"]
    arn = cloud.create_image("failing-run-hook", files | {"app.py": failing}, hooks=HOOKS)
    assert cloud.settled(arn)["buildState"] == "SUCCESSFUL"
    vm = launch(imageIdentifier=arn)
    assert vm.until("TERMINATED")["stateReason"].startswith("Run lifecycle hook returned HTTP status 500.")
    cloud.cli("image", "rm", arn)


def test_the_api_refuses_a_wrong_secret(cloud: Cloud) -> None:
    with pytest.raises(ClientError) as refused:
        cloud.client(secret="wrong" * 8).list_microvms()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_another_product_is_named(cloud: Cloud) -> None:
    with pytest.raises(ClientError) as refused:
        cloud.client("lambda-core").list_runtimes()
    assert refused.value.response["Error"]["Message"].startswith("ListRuntimes belongs to Lambda runtimes")
