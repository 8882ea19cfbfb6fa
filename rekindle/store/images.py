"""Images, versions and builds. A build that ends changes all three in one transaction."""

from __future__ import annotations

from collections.abc import Mapping

from rekindle.clock import Clock
from rekindle.core.errors import Invalid, NotFound, Refused, Stale
from rekindle.core.image import Build, Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.microvm import SERVICE, Event
from rekindle.core.quota import NO_CEILINGS, Ceilings
from rekindle.store import events, quotas, tokens
from rekindle.store.database import Database
from rekindle.store.image_rows import (
    build_row,
    image_row,
    number_of,
    read_build,
    read_image,
    read_version,
    version_row,
)
from rekindle.store.tokens import Asked

_CREATE = "CreateMicrovmImage"


class Images:
    _db: Database
    _clock: Clock

    async def create_image(
        self,
        image: Image,
        version: Version,
        build: Build,
        *,
        client_token: str | None,
        token_digest: str,
        ceilings: Ceilings = NO_CEILINGS,
        note: str | None = None,
        by: str = SERVICE,
    ) -> tuple[Image, Version]:
        """Write the three rows, or return what the same client token made before.

        `note`: for the image's story; `by`: who asked, for the same.

        Raises Invalid when the name is taken in this account and region, Refused when the client token was used with
        other parameters, OverQuota when the account has as many images or builds as it may.
        """
        asked = Asked(_CREATE, image.account, image.region, client_token, token_digest)
        with self._db.transaction():
            arn = tokens.earlier(self._db, asked, self._clock())
            if arn is not None:
                return self._first(arn)
            if not self._db.run("add_image", **image_row(image)):
                raise Invalid(f"A MicroVM image with the name '{image.name}' already exists in this account")
            self._db.run("add_version", **version_row(version))
            self._db.run("add_build", **build_row(build))
            quotas.images(self._db, image.account, ceilings)
            quotas.builds(self._db, image.account, ceilings)
            tokens.remember(self._db, asked, image.arn, self._clock())
            events.go_on(self._db, image.arn)
            self._tell(image.arn, f"image {image.state.value}", "asked to create", by)
            self._tell_version(version, None, by)
            self._note(version, note)
        return image, version

    async def image(self, arn: str) -> Image | None:
        row = self._db.one("image", arn=arn)
        return None if row is None else read_image(row)

    async def images(
        self, account: str, region: str, *, after: str | None, limit: int, name_contains: str | None
    ) -> list[Image]:
        """By ARN, beginning behind the ARN `after`."""
        rows = self._db.all(
            "images", account=account, region=region, after=after or "", limit=limit, name_contains=name_contains
        )
        return [read_image(row) for row in rows]

    async def version(self, arn: str, version: str) -> Version | None:
        row = self._db.one("version", image_arn=arn, version=version)
        return None if row is None else read_version(row)

    async def versions(self, arn: str, *, after: str | None, limit: int) -> list[Version]:
        """Newest first, beginning behind the version `after`."""
        below = None if after is None else number_of(after)
        return [read_version(row) for row in self._db.all("versions", image_arn=arn, below=below, limit=limit)]

    async def active_version(self, arn: str) -> Version | None:
        """The newest version that a microVM may be started from."""
        row = self._db.one("newest_active_version", image_arn=arn)
        return None if row is None else read_version(row)

    async def versions_owing(self) -> list[Version]:
        """Versions whose build is still to be made, oldest first: PENDING, or IN_PROGRESS when it was cut off."""
        return [read_version(row) for row in self._db.all("versions_owing")]

    async def version_folders(self) -> set[str]:
        """Every image folder that a row names; any other is left over."""
        return {row["folder"] for row in self._db.all("version_folders")}

    async def build(self, build_id: str) -> Build | None:
        row = self._db.one("build", id=build_id)
        return None if row is None else read_build(row)

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
        return [read_build(row) for row in rows]

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
            self._settle(version.image_arn, ImageState.CREATED, ImageState.UPDATED, None)
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
            self._settle(version.image_arn, ImageState.CREATE_FAILED, ImageState.UPDATE_FAILED, reason)
        return done

    def _first(self, arn: str) -> tuple[Image, Version]:
        image, version = self._db.one("image", arn=arn), self._db.one("version", image_arn=arn, version="1.0")
        if image is None or version is None:
            raise Refused(f"The image that this client token made is gone: {arn}")
        return read_image(image), read_version(version)

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
        moved = read_version(row)
        self._tell_version(moved, reason)
        return moved

    def _settle(self, arn: str, created: ImageState, updated: ImageState, why: str | None, by: str = SERVICE) -> None:
        """Something of the image is over. CREATING becomes `created`, UPDATING `updated`, any other state stays."""
        image = self._image(arn)
        after = {ImageState.CREATING: created, ImageState.UPDATING: updated}
        self._move_image(image, after.get(image.state, image.state), why, by)

    def _move_image(self, image: Image, to: ImageState, why: str | None, by: str = SERVICE, *, step: int = 0) -> Image:
        """Which versions are its latest is read from their rows anew. `step`: how many numbers are given away."""
        row = self._db.one(
            "move_image", arn=image.arn, from_state=image.state.value, state=to.value, step=step, now_ms=self._clock()
        )
        if row is None:
            raise Stale(f"{image.arn}: {to.value}, but it is no longer {image.state.value}")
        if to is not image.state:
            self._tell(image.arn, f"image {to.value}", why, by)
        return read_image(row)

    def _image(self, arn: str) -> Image:
        row = self._db.one("image", arn=arn)
        if row is None:
            raise NotFound(f"MicroVMImage not found for MicroVMImageID: {arn}")
        return read_image(row)

    def _tell_version(self, version: Version, why: str | None, by: str = SERVICE) -> None:
        self._tell(version.image_arn, f"version {version.version} {version.state.value}", why, by)

    def _note(self, version: Version, note: str | None) -> None:
        if note is not None:
            self._tell(version.image_arn, events.NOTE, note)

    def _tell(self, arn: str, what: str, why: str | None, by: str = SERVICE) -> None:
        events.write(self._db, Event(subject=arn, at_ms=self._clock(), what=what, why=why, by=by))
