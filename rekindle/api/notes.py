"""What a request asks for that has no meaning on this machine, in sentences for the story of what it made.

Programs written for AWS name roles, keys and log groups; these are taken as AWS takes them, and told here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rekindle.core import managed
from rekindle.core.managed import Managed

#: One line for `rekindle doctor`.
WITHOUT_EFFECT = (
    "taken and without effect: buildRoleArn, executionRoleArn, OperatorRole, kmsKeyIdentifier, logging.cloudWatch, "
    f"subnets and security groups of VPC connectors; {managed.ALIAS} is Rekindle's own base image"
)

_KMS = "kmsKeyIdentifier is not used: there is no KMS, what is stored is encrypted as the disk of the state folder is."


def of_image(params: Mapping[str, Any], base: Managed) -> str | None:
    """For CreateMicrovmImage and UpdateMicrovmImage; None when there is nothing to say."""
    return " ".join(_image(params, base)) or None


def of_run(params: Mapping[str, Any]) -> str | None:
    """For RunMicrovm; None when there is nothing to say."""
    return " ".join(_run(params)) or None


def _image(params: Mapping[str, Any], base: Managed) -> Iterator[str]:
    if managed.is_alias(params["baseImageArn"]):
        yield f"{managed.ALIAS} is a name for Rekindle's own base image, {base.name} {base.version}."
    yield (
        "buildRoleArn is not assumed: the code artifact is read with a key of the account, and RUN steps have no "
        "AWS credentials."
    )
    if "kmsKeyIdentifier" in params:
        yield _KMS
    yield from _logging(params, "the build log is kept here: rekindle image logs")


def _run(params: Mapping[str, Any]) -> Iterator[str]:
    if "executionRoleArn" in params:
        yield "executionRoleArn is not assumed: the guest has no AWS credentials."
    if "kmsKeyIdentifier" in params:
        yield _KMS
    if any(arn.endswith(":SHELL_INGRESS") for arn in params.get("ingressNetworkConnectors", [])):
        yield "SHELL_INGRESS lets nobody in yet: shell tokens are made, but the endpoint has no shell."
    yield from _logging(params, "the app's output is kept here: rekindle logs")


def _logging(params: Mapping[str, Any], where: str) -> Iterator[str]:
    logging = params.get("logging", {})
    if "cloudWatch" in logging:
        yield f"logging.cloudWatch is not used: there is no CloudWatch, {where}."
    elif "disabled" in logging:
        yield f"logging.disabled keeps nothing off a wire: nothing is sent anywhere, and {where}."
