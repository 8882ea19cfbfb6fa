"""Names of log groups and streams as AWS gives them (spec §7, §9.1).

Nothing is sent to CloudWatch: the names are shown, and `rekindle logs` takes a stream's name for its microVM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekindle.core.arn import image_arn
from rekindle.core.image import Build, Version
from rekindle.core.microvm import MicroVM

BUILD_VERSION = "0.0"  #: stands for the image version in the stream of a build (spec §1.5)
_STREAM = re.compile(r"\d{4}/\d\d/\d\d\[[0-9.]+\](?P<id>microvm-[0-9a-f-]{36})", re.ASCII)


@dataclass(frozen=True, slots=True)
class LogNames:
    group: str | None  #: None: logging is disabled
    stream: str | None


NONE = LogNames(None, None)


def of_microvm(vm: MicroVM) -> LogNames:
    """Those of the app's output. The image's own log group is not inherited: it is the build's."""
    return _names(vm.logging, vm.image_arn, vm.started_at_ms, vm.image_version, vm.id)


def of_build(version: Version, build: Build) -> LogNames:
    """Those of the build's log, kept as one text."""
    logging: Any = version.request.get("logging")
    return _names(logging, version.image_arn, build.created_at_ms, BUILD_VERSION, f"microvm-{build.id}")


def microvm_id(stream: str) -> str | None:
    """The microVM in a stream's default name; None for any other text."""
    match = _STREAM.fullmatch(stream)
    return None if match is None else match["id"]


def _names(logging: Mapping[str, Any] | None, arn: str, at_ms: int, version: str, writer: str) -> LogNames:
    wanted: Mapping[str, Any] = logging or {}
    if "disabled" in wanted:
        return NONE
    given: Mapping[str, str] = wanted.get("cloudWatch") or {}
    day = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y/%m/%d")
    return LogNames(
        group=given.get("logGroup") or f"/aws/lambda-microvms/{image_arn(arn).name}",
        stream=given.get("logStream") or f"{day}[{version}]{writer}",
    )
