"""The life of an image with two versions: real boto3, real builds, real virtual machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.cloud import HOOKS, Cloud, Vm, interpreter_files
from tests.waiting import until

BUILD_S = 300
WHICH = "import os; os.environ['GENERATION'], os.environ['AWS_LAMBDA_MICROVM_IMAGE_VERSION']"


def image_of(cloud: Cloud, arn: str) -> dict[str, Any]:
    answer: dict[str, Any] = cloud.client().get_microvm_image(imageIdentifier=arn)
    return answer


def until_state(cloud: Cloud, arn: str, state: str) -> dict[str, Any]:
    """Ends early when the image comes to rest in another state."""

    def there() -> dict[str, Any]:
        image = image_of(cloud, arn)
        if image["state"].endswith("FAILED"):
            raise AssertionError(f"{image['state']}: {cloud.build_log(arn)}\n{cloud.log()[-3000:]}")
        return image if image["state"] == state else {}

    return until(there, BUILD_S, f"{arn} is {state}")


def folders(cloud: Cloud) -> set[Path]:
    return set((cloud.state / "images/000000000000").iterdir())


def build_logs(cloud: Cloud) -> set[Path]:
    return set((cloud.state / "logs/builds").iterdir())


def launched(cloud: Cloud, arn: str, **members: Any) -> Vm:
    vm = cloud.run(arn, **members)
    vm.until("RUNNING")
    return vm


def refusal(call: Any, **params: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as refused:
        call(**params)
    answer = refused.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def is_gone(cloud: Cloud, arn: str) -> bool:
    try:
        image_of(cloud, arn)
    except ClientError as err:
        return str(err.response["Error"]["Code"]) == "ResourceNotFoundException"
    return False


def test_an_image_from_its_first_version_to_its_end(cloud: Cloud, image: str) -> None:
    del image  # its folder is there before ours are counted
    api, folders_before, logs_before = cloud.client(), folders(cloud), build_logs(cloud)
    arn = cloud.create_image("twice", interpreter_files(), hooks=HOOKS, environmentVariables={"GENERATION": "one"})
    until_state(cloud, arn, "CREATED")
    first = api.get_microvm_image_version(imageIdentifier=arn, imageVersion="1.0")
    old = launched(cloud, arn)
    assert old.snippet(WHICH) == "('one', '1.0')"

    made = api.update_microvm_image(
        imageIdentifier=arn,
        environmentVariables={"GENERATION": "two"},
        hooks=HOOKS,
        **{name: first[name] for name in ("baseImageArn", "buildRoleArn", "codeArtifact", "resources")},
    )
    assert (made["imageVersion"], made["state"], made["latestActiveImageVersion"]) == ("2.0", "UPDATING", "1.0")
    meanwhile = launched(cloud, arn)
    assert meanwhile.snippet(WHICH) == "('one', '1.0')"  # while 2.0 is built
    meanwhile.terminate()
    assert until_state(cloud, arn, "UPDATED")["latestActiveImageVersion"] == "2.0"
    assert old.snippet(WHICH) == "('one', '1.0')"
    old.suspend()
    api.resume_microvm(microvmIdentifier=old.id)
    old.until("RUNNING")
    assert old.snippet(WHICH) == "('one', '1.0')"  # its snapshot stands on the old version
    new, pinned = launched(cloud, arn), launched(cloud, arn, imageVersion="1.0")
    assert (new.snippet(WHICH), pinned.snippet(WHICH)) == ("('two', '2.0')", "('one', '1.0')")
    new.terminate()
    pinned.terminate()

    api.update_microvm_image_version(imageIdentifier=arn, imageVersion="2.0", status="INACTIVE")
    assert image_of(cloud, arn)["latestActiveImageVersion"] == "1.0"
    back = launched(cloud, arn)
    assert back.row()["imageVersion"] == "1.0"
    back.terminate()
    assert refusal(api.run_microvm, imageIdentifier=arn, imageVersion="2.0")[0] == 404

    assert refusal(api.delete_microvm_image_version, imageIdentifier=arn, imageVersion="1.0")[0] == 400
    going = api.delete_microvm_image_version(imageIdentifier=arn, imageVersion="2.0")
    assert going["state"] == "DELETING"
    until_state(cloud, arn, "UPDATED")
    assert len(folders(cloud) - folders_before) == 1
    assert len(build_logs(cloud) - logs_before) == 1

    text = "Cannot delete microvm image with running microvms."
    assert refusal(api.delete_microvm_image, imageIdentifier=arn) == (400, text)
    assert old.snippet(WHICH) == "('one', '1.0')"
    old.terminate()
    assert api.delete_microvm_image(imageIdentifier=arn)["state"] == "DELETING"
    cloud.kill()  # whatever it had done by now, the next start finishes
    cloud.start()
    until(lambda: is_gone(cloud, arn), 30, "the image is gone")
    assert (folders(cloud), build_logs(cloud)) == (folders_before, logs_before)
    assert old.row()["state"] == "TERMINATED"
