"""The managed base image: Rekindle's own, built from Debian packages, named like AWS names its (spec §1.5).

AWS's name for its base, `al2023-1`, is an alias of it, so that programs which name that run as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rekindle.core.arn import MANAGED_ACCOUNT, ImageArn
from rekindle.core.errors import Invalid

ALIAS = "al2023-1"
ALIAS_VERSIONS = ("1", "0")  #: what AWS lists (recorded: spec §1.5); here both are the one base there is
_MAJOR = re.compile(r"[0-9]+", re.ASCII)
_ARN = re.compile(rf"arn:aws:lambda:[a-z0-9-]{{1,32}}:{MANAGED_ACCOUNT}:microvm-image:(?P<name>[a-zA-Z0-9-_]+)")


@dataclass(frozen=True, slots=True)
class Managed:
    name: str  #: "debian-13"
    version: str  #: a bare major, "1"
    made_at_ms: int

    def arn(self, region: str) -> str:
        return str(ImageArn(region, MANAGED_ACCOUNT, self.name))

    def arns(self, region: str) -> tuple[str, str]:
        """What is listed: our own name, then the alias."""
        return self.arn(region), str(ImageArn(region, MANAGED_ACCOUNT, ALIAS))

    def versions(self, arn: str) -> tuple[str, ...]:
        """The versions behind `arn`, newest first; none for another image. Every region has the same base."""
        match = _ARN.fullmatch(arn)
        return {self.name: (self.version,), ALIAS: ALIAS_VERSIONS}.get(match["name"], ()) if match else ()


def is_alias(arn: str) -> bool:
    match = _ARN.fullmatch(arn)
    return match is not None and match["name"] == ALIAS


def base_version(managed: Managed, arn: str, version: str | None) -> str:
    """The version to build on, as answers show it ("1.0"); the newest when none is named.

    Raises Invalid with AWS's texts for another image, another version or a spelling like "1.0" (spec §1.4).
    """
    if version is not None and _MAJOR.fullmatch(version) is None:
        raise Invalid(f"Invalid baseMicroVMImageVersion: {version}. Expected a single major version number (e.g., 1).")
    there = managed.versions(arn)
    if not there or version not in (None, *there):
        of = "" if version is None else f" and version {version}"
        raise Invalid(f"No managed MicroVM Image with arn {arn}{of} is available")
    return f"{version or there[0]}.0"
