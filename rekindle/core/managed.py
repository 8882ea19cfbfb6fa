"""The managed base image: Rekindle's own, built from Debian packages, named like AWS names its (spec §1.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rekindle.core.arn import MANAGED_ACCOUNT, ImageArn
from rekindle.core.errors import Invalid

_MAJOR = re.compile(r"[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Managed:
    name: str  #: "debian-13"
    version: str  #: a bare major, "1"
    made_at_ms: int

    def arn(self, region: str) -> str:
        return str(ImageArn(region, MANAGED_ACCOUNT, self.name))


def base_version(managed: Managed, region: str, arn: str, version: str | None) -> str:
    """The version to build on, as answers show it ("1.0"); the newest when none is named.

    Raises Invalid with AWS's texts for another image, another version or a spelling like "1.0" (spec §1.4).
    """
    if version is not None and _MAJOR.fullmatch(version) is None:
        raise Invalid(f"Invalid baseMicroVMImageVersion: {version}. Expected a single major version number (e.g., 1).")
    if arn != managed.arn(region) or version not in (None, managed.version):
        of = "" if version is None else f" and version {version}"
        raise Invalid(f"No managed MicroVM Image with arn {arn}{of} is available")
    return f"{managed.version}.0"
