"""Images, versions and builds. A build that ends changes all three in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rekindle.clock import Clock
from rekindle.core.errors import Invalid, NotFound, Refused, Stale
from rekindle.core.image import Build, Hook, Hooks, Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.microvm import Event
from rekindle.store import events, tokens
from rekindle.store.database import Database, Row, columns
from rekindle.store.tokens import Asked

_CREATE = "CreateMicrovmImage"


class Images:
    _db: Database
    _clock: Clock

    async def create_image(
        self, image: Image, version: Version, build: Build, *, client_token: str | None, token_digest: str
    ) -> tuple[Image, Version]:
        """Write the three rows, or return what the same client token made before.

        Raises Invalid when the name is taken in this account and region, Refused when the client token was used with
        other parameters.
        """
        asked = Asked(_CREATE, image.account, image.region, client_token, token_digest)
        with self._db.transaction():
            arn = tokens.earlier(self._db, asked, self._clock())
            if arn is not None:
                return self._first(arn)
            if not self._db.run("add_image", **_image_row(image)):
                raise Invalid(f"A MicroVM image with the name '{image.name}' already exists in this account")
            self._db.run("add_version", **_version_row(version))
            self._db.run("add_build", **_build_row(build))
            tokens.remember(self._db, asked, image.arn, self._clock())
            self._tell_version(version, "client asked")
        return image, version

    async def image(self, arn: str) -> Image | None:
        row = self._db.one("image", arn=arn)
        return None if row is None else _image(row)

    async def images(
        self, account: str, region: str, *, after: str | None, limit: int, name_contains: str | None
    ) -> list[Image]:
        """By ARN, beginning behind the ARN `after`."""
        rows = self._db.all(
            "images", account=account, region=region, after=after or "", limit=limit, name_contains=name_contains
        )
        return [_image(row) for row in rows]

    async def version(self, arn: str, version: str) -> Version | None:
        row = self._db.one("version", image_arn=arn, version=version)
        return None if row is None else _version(row)

    async def versions(self, arn: str, *, after: str | None, limit: int) -> list[Version]:
        """Newest first, beginning behind the version `after`."""
        below = None if after is None else _number(after)
        return [_version(row) for row in self._db.all("versions", image_arn=arn, below=below, limit=limit)]

    async def active_version(self, arn: str) -> Version | None:
        """The newest version that a microVM may be started from."""
        row = self._db.one("newest_active_version", image_arn=arn)
        return None if row is None else _version(row)

    async def versions_owing(self) -> list[Version]:
        """Versions whose build is still to be made, oldest first: PENDING, or IN_PROGRESS when it was cut off."""
        return [_version(row) for row in self._db.all("versions_owing")]

    async def version_folders(self) -> set[str]:
        """Every image folder that a row names; any other is left over."""
        return {row["folder"] for row in self._db.all("version_folders")}

    async def build(self, build_id: str) -> Build | None:
        row = self._db.one("build", id=build_id)
        return None if row is None else _build(row)

    async def builds(
        self,
        arn: str,
        version: str,
        *,
        after: str | None = None,
        limit: int = 50,
        architecture: str | None = None,
        chipset: str | None = None,
        chipset_generation: str | None = None,
    ) -> list[Build]:
        """By id, beginning behind the id `after`."""
        rows = self._db.all(
            "builds",
            image_arn=arn,
            version=version,
            after=after or "",
            limit=limit,
            architecture=architecture,
            chipset=chipset,
            chipset_generation=chipset_generation,
        )
        return [_build(row) for row in rows]

    async def building(self, version: Version) -> Version:
        """The build begins, or begins again after a crash. Raises Stale when the row moved on."""
        with self._db.transaction():
            return self._move(version, VersionState.IN_PROGRESS, VersionStatus.INACTIVE, {})

    async def built(
        self,
        version: Version,
        *,
        folder: str,
        memory_snapshot_bytes: int,
        disk_snapshot_bytes: int,
        code_install_bytes: int,
    ) -> Version:
        """The snapshot is whole in `folder` (below `images/`). Raises Stale when the row moved on."""
        sizes = {
            "memory_snapshot_bytes": memory_snapshot_bytes,
            "disk_snapshot_bytes": disk_snapshot_bytes,
            "code_install_bytes": code_install_bytes,
        }
        with self._db.transaction():
            done = self._move(version, VersionState.SUCCESSFUL, VersionStatus.ACTIVE, sizes, folder=folder)
            self._finish(version, ImageState.CREATED, ImageState.UPDATED, active=version.version)
        return done

    async def build_failed(
        self,
        version: Version,
        *,
        reason: str,
        memory_snapshot_bytes: int | None = None,
        disk_snapshot_bytes: int | None = None,
        code_install_bytes: int | None = None,
    ) -> Version:
        """The build is over without a snapshot. Raises Stale when the row moved on."""
        sizes = {
            "memory_snapshot_bytes": memory_snapshot_bytes,
            "disk_snapshot_bytes": disk_snapshot_bytes,
            "code_install_bytes": code_install_bytes,
        }
        with self._db.transaction():
            done = self._move(version, VersionState.FAILED, VersionStatus.INACTIVE, sizes, reason=reason)
            self._finish(version, ImageState.CREATE_FAILED, ImageState.UPDATE_FAILED, failed=version.version)
        return done

    async def delete_image(self, arn: str) -> None:
        """Forget an image that nothing uses; its folders are swept by who owns the files.

        Raises NotFound, or Refused while a build runs or a microVM of it is not TERMINATED.
        """
        with self._db.transaction():
            if self._db.one("image", arn=arn) is None:
                raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
            live = self._db.one("count_live_of_image", image_arn=arn)
            if live is not None and live["count"]:
                raise Refused("Cannot delete MicroVM image with running MicroVMs.")
            if any(row["image_arn"] == arn for row in self._db.all("versions_owing")):
                raise Refused(f"Cannot delete MicroVM image in its current state: {arn} is being built.")
            self._db.run("delete_builds", image_arn=arn)
            self._db.run("delete_versions", image_arn=arn)
            self._db.run("delete_image", arn=arn)
            self._db.run("forget_client_tokens", subject=arn)
            self._db.run("forget_events", subject=arn)

    def _first(self, arn: str) -> tuple[Image, Version]:
        image, version = self._db.one("image", arn=arn), self._db.one("version", image_arn=arn, version="1.0")
        if image is None or version is None:
            raise Refused(f"The image that this client token made is gone: {arn}")
        return _image(image), _version(version)

    def _move(
        self,
        version: Version,
        to: VersionState,
        status: VersionStatus,
        sizes: Mapping[str, int | None],
        *,
        reason: str | None = None,
        folder: str | None = None,
    ) -> Version:
        key = {"image_arn": version.image_arn, "version": version.version}
        row = self._db.one(
            "update_version",
            **key,
            revision=version.revision,
            state=to.value,
            status=status.value,
            state_reason=reason,
            folder=folder,
            updated_at_ms=self._clock(),
        )
        if row is None:
            raise Stale(f"{version.image_arn} {version.version}: {to.value}, but revision {version.revision} is over")
        none = {"memory_snapshot_bytes": None, "disk_snapshot_bytes": None, "code_install_bytes": None}
        self._db.run("update_builds", **key, state=to.value, state_reason=reason, **{**none, **sizes})
        moved = _version(row)
        self._tell_version(moved, reason)
        return moved

    def _finish(
        self,
        version: Version,
        created: ImageState,
        updated: ImageState,
        *,
        active: str | None = None,
        failed: str | None = None,
    ) -> None:
        self._db.run(
            "finish_image",
            arn=version.image_arn,
            created=created.value,
            updated=updated.value,
            active=active,
            failed=failed,
            now_ms=self._clock(),
        )

    def _tell_version(self, version: Version, why: str | None) -> None:
        what = f"version {version.version} {version.state.value}"
        events.write(self._db, Event(subject=version.image_arn, at_ms=self._clock(), what=what, why=why))


def _number(version: str) -> int:
    return int(version.partition(".")[0])


def _image_row(image: Image) -> dict[str, Any]:
    tags = None if image.tags is None else json.dumps(dict(image.tags))
    return columns(image) | {"state": image.state.value, "tags": tags}


def _image(row: Row) -> Image:
    values = dict(row)
    values["state"] = ImageState(values["state"])
    values["tags"] = None if values["tags"] is None else json.loads(values["tags"])
    return Image(**values)


def _version_row(version: Version) -> dict[str, Any]:
    hooks = version.hooks and [version.hooks.port, [[hook.name, hook.timeout_s] for hook in version.hooks.enabled]]
    return columns(version) | {
        "number": _number(version.version),
        "state": version.state.value,
        "status": version.status.value,
        "request": json.dumps(dict(version.request)),
        "environment": json.dumps(dict(version.environment)),
        "hooks": hooks and json.dumps(hooks),
        "egress": json.dumps(version.egress),
    }


def _version(row: Row) -> Version:
    values = dict(row)
    del values["number"]
    values["state"] = VersionState(values["state"])
    values["status"] = VersionStatus(values["status"])
    values["request"] = json.loads(values["request"])
    values["environment"] = json.loads(values["environment"])
    values["hooks"] = _hooks(values["hooks"])
    values["egress"] = tuple(json.loads(values["egress"]))
    values["os_capabilities_all"] = bool(values["os_capabilities_all"])
    return Version(**values)


def _hooks(text: str | None) -> Hooks | None:
    if text is None:
        return None
    port, enabled = json.loads(text)
    return Hooks(port=port, enabled=tuple(Hook(name=name, timeout_s=timeout_s) for name, timeout_s in enabled))


def _build_row(build: Build) -> dict[str, Any]:
    return columns(build) | {"state": build.state.value}


def _build(row: Row) -> Build:
    values = dict(row)
    values["state"] = VersionState(values["state"])
    return Build(**values)
