"""What a request for an image version asks for: every rule that the model cannot say, and our own terms for it.

CreateMicrovmImage and UpdateMicrovmImage share it: an update replaces everything (spec §1.9).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle.api import connectors
from rekindle.api.context import Caller, Parsed, Tools
from rekindle.api.hooks import hooks
from rekindle.core import cpu, managed, sizes
from rekindle.core.cpu import Cpu
from rekindle.core.errors import Invalid
from rekindle.core.image import Build, Hooks, Image, Version, VersionState, VersionStatus

_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+", re.DOTALL)
#: Set by the platform in every guest (spec §6.3).
_RESERVED = {
    "AWS_REGION",
    "AWS_LAMBDA_MICROVM_IMAGE_NAME",
    "AWS_LAMBDA_MICROVM_IMAGE_ARN",
    "AWS_LAMBDA_MICROVM_IMAGE_VERSION",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the request asks for, checked and in our own terms."""

    base_image_version: str
    artifact_uri: str
    memory_mib: int
    environment: Mapping[str, str]
    hooks: Hooks | None
    os_capabilities_all: bool
    egress: tuple[str, ...]


async def settings(tools: Tools, caller: Caller, params: Mapping[str, Any]) -> Settings:
    """Every rule that the model cannot say. Raises Invalid or NotFound."""
    base_arn: str = params["baseImageArn"]
    base = managed.base_version(tools.engine.managed(), base_arn, params.get("baseImageVersion"))
    for one in params.get("cpuConfigurations", []):
        cpu.check(one["architecture"], tools.cpu)
    return Settings(
        base_image_version=base,
        artifact_uri=_artifact_uri(params["codeArtifact"]["uri"]),
        memory_mib=_memory_mib(tools, params.get("resources", []), base_arn),
        environment=_environment(params.get("environmentVariables", {})),
        hooks=hooks(params.get("hooks"), tools.config.build),
        os_capabilities_all="ALL" in params.get("additionalOsCapabilities", []),
        egress=await connectors.egress(tools, caller, params.get("egressNetworkConnectors", [])),
    )


def _artifact_uri(uri: str) -> str:
    if _S3_URI.fullmatch(uri) is None:
        raise Invalid("CodeArtifact URI must be a valid S3 URI in the format: s3://<bucket>/<key>")
    return uri


def _memory_mib(tools: Tools, resources: list[Mapping[str, int]], base_arn: str) -> int:
    memory = tools.config.memory
    asked = resources[0]["minimumMemoryInMiB"] if resources else memory.default_mib
    return sizes.check_memory(asked, {*memory.extra_sizes_mib, memory.default_mib}, base_arn)


def _environment(variables: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in variables.items():
        if key in _RESERVED:
            raise Invalid(f"Environment variable key '{key}' is reserved")
        if "=" in key or "\0" in key + value:
            raise Invalid(f"Environment variable key '{key}' or its value holds '=' or a NUL, which no process can get")
    return variables


def version_row(tools: Tools, call: Parsed, image: Image, number: int, settings: Settings) -> Version:
    """The row to be of version `<number>.0`, whose build is still to be made."""
    return Version(
        image_arn=image.arn,
        account=image.account,
        region=image.region,
        version=f"{number}.0",
        state=VersionState.PENDING,
        status=VersionStatus.INACTIVE,
        revision=0,
        request=_echoed(tools, call.params, settings.memory_mib),
        base_image_version=settings.base_image_version,
        artifact_uri=settings.artifact_uri,
        memory_mib=settings.memory_mib,
        vcpus=sizes.vcpus(settings.memory_mib, tools.host_cpus, tools.config.memory.mib_per_vcpu),
        environment=settings.environment,
        hooks=settings.hooks,
        os_capabilities_all=settings.os_capabilities_all,
        egress=settings.egress,
        created_at_ms=image.updated_at_ms,
        updated_at_ms=image.updated_at_ms,
    )


def _echoed(tools: Tools, params: Mapping[str, Any], memory_mib: int) -> dict[str, Any]:
    """The members that answers repeat as they were given; defaults filled in.

    `kmsKeyIdentifier`, which no recorded answer has, only when it was given.
    """
    echoed = (
        "additionalOsCapabilities",
        "baseImageArn",
        "buildRoleArn",
        "codeArtifact",
        "description",
        "environmentVariables",
        "hooks",
        "logging",
    )
    given = {name: params[name] for name in ("kmsKeyIdentifier",) if name in params}
    return (
        {name: params.get(name) for name in echoed}
        | given
        | {
            "cpuConfigurations": params.get("cpuConfigurations") or [{"architecture": tools.cpu.architecture}],
            "resources": [{"minimumMemoryInMiB": memory_mib}],
        }
    )


def build_row(version: Version, of: Cpu) -> Build:
    return Build(
        id=str(uuid.uuid4()),
        image_arn=version.image_arn,
        version=version.version,
        state=VersionState.PENDING,
        architecture=of.architecture,
        chipset=of.chipset,
        chipset_generation=of.chipset_generation,
        created_at_ms=version.created_at_ms,
    )
