"""Changes of images that are there: new versions, their status, and deletion.

Deletion is asked for here and done by the node: rows go to DELETING first, files next, `version_removed` last. So a
crash at any point leaves a row that still says what is to be done.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.errors import Invalid, NotFound, Refused, Stale
from rekindle.core.image import Build, Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.microvm import SERVICE
from rekindle.core.quota import NO_CEILINGS, Ceilings
from rekindle.store import events, quotas, tokens
from rekindle.store.database import Row
from rekindle.store.image_rows import build_row, read_version, version_row
from rekindle.store.images import Images
from rekindle.store.tokens import Asked

_UPDATE = "UpdateMicrovmImage"
_DELETE = "asked to delete"
_MOVING = (ImageState.CREATING, ImageState.UPDATING, ImageState.DELETING)


class ImageChanges(Images):
    async def update_image(
        self,
        version: Version,
        build: Build,
        *,
        client_token: str | None,
        token_digest: str,
        by: str = SERVICE,
        ceilings: Ceilings = NO_CEILINGS,
        note: str | None = None,
    ) -> tuple[Image, Version]:
        """Add a version with its build, or return what the same client token made before.

        The number of both rows is set here: one more than the highest ever given; `note` and `by`, who asked, are for
        its story.
        Raises NotFound, OverQuota when the image has as many versions, or the account as many builds, as it may, or
        Refused while the image changes otherwise or when the client token was used with other parameters.
        """
        arn = version.image_arn
        asked = Asked(_UPDATE, version.account, version.region, client_token, token_digest)
        with self._db.transaction():
            made = tokens.earlier(self._db, asked, self._clock())
            if made is not None:
                return self._image(arn), self._there(arn, made.removeprefix(f"{arn} "))
            image = self._move_image(self._steady(arn), ImageState.UPDATING, "asked to update", by, step=1)
            version = replace(version, version=f"{image.last_number}.0")
            self._db.run("add_version", **version_row(version))
            self._db.run("add_build", **build_row(replace(build, version=version.version)))
            quotas.versions(self._db, arn, ceilings)
            quotas.builds(self._db, version.account, ceilings)
            tokens.remember(self._db, asked, _token_subject(version), self._clock())
            self._tell_version(version, None, by)
            self._note(version, note)
        return image, version

    async def set_version_status(self, arn: str, version: str, status: VersionStatus, *, by: str = SERVICE) -> Version:
        """Let a version be launched, or not; no change writes nothing.

        Raises NotFound, Refused while the image changes otherwise, or Invalid when the version is not SUCCESSFUL.
        """
        with self._db.transaction():
            there = self._there(arn, version)
            self._steady(arn)
            if there.state is not VersionState.SUCCESSFUL:
                raise Invalid(
                    f"Cannot set the status of MicroVM image version {version}, which is {there.state.value}: "
                    "only a SUCCESSFUL version can be ACTIVE or INACTIVE."
                )
            if there.status is status:
                return there
            done = self._change(there, VersionState.SUCCESSFUL, status)
            self._tell(arn, f"version {version} {status.value}", f"asked to be {status.value}", by)
            self._settle(arn, ImageState.CREATED, ImageState.UPDATED, None, by)
        return done

    async def delete_version(self, arn: str, version: str, *, by: str = SERVICE) -> Version:
        """Ask for the removal of a version; one that is DELETING stays so.

        Raises NotFound, Refused while the image changes otherwise, or Invalid for the only version or one that a
        microVM still uses.
        """
        with self._db.transaction():
            there = self._there(arn, version)
            if there.state is VersionState.DELETING:
                return there
            image = self._steady(arn)
            if _count(self._db.all("count_versions", image_arn=arn)) == 1:
                raise Invalid(f"Cannot delete version {version}: it is the only version of MicroVM image {arn}.")
            if _count(self._db.all("count_live_of_version", image_arn=arn, image_version=version)):
                raise Invalid("Cannot delete microvm image version with running microvms.")
            done = self._change(there, VersionState.DELETING, VersionStatus.INACTIVE)
            self._tell_version(done, _DELETE, by)
            self._move_image(image, ImageState.UPDATING, _DELETE, by)
        return done

    async def delete_image(self, arn: str, *, by: str = SERVICE) -> Image:
        """Ask for the removal of an image and all its versions; one that is DELETING stays so. Its name stays taken.

        Raises NotFound, or Invalid while a version is built or removed, or a microVM of it is not TERMINATED.
        """
        with self._db.transaction():
            image = self._image(arn)
            if image.state is ImageState.DELETING:
                return image
            if image.state in _MOVING:
                raise Invalid(f"Cannot delete MicroVM image in its current state: {image.state.value}")
            if _count(self._db.all("count_live_of_image", image_arn=arn)):
                raise Invalid("Cannot delete microvm image with running microvms.")
            for row in self._db.all("versions", image_arn=arn, below=None, limit=-1):
                version = self._change(read_version(row), VersionState.DELETING, VersionStatus.INACTIVE)
                self._tell_version(version, _DELETE, by)
            return self._move_image(image, ImageState.DELETING, _DELETE, by)

    async def versions_deleting(self) -> list[Version]:
        """Versions whose files are still to be removed, oldest first."""
        return [read_version(row) for row in self._db.all("versions_deleting")]

    async def version_removed(self, version: Version) -> None:
        """No file of a DELETING version is left: forget it, and with its last version a DELETING image.

        Raises Stale when the row is not DELETING.
        """
        key = {"image_arn": version.image_arn, "version": version.version}
        with self._db.transaction():
            row = self._db.one("version", **key)
            if row is None or row["state"] != VersionState.DELETING.value:
                raise Stale(f"{version.image_arn} {version.version}: removed, but its row is not DELETING")
            self._db.run("forget_builds", **key)
            self._db.run("forget_version", **key)
            self._db.run("forget_client_tokens", subject=_token_subject(version))
            self._tell(version.image_arn, f"version {version.version} {VersionState.DELETED.value}", None)
            if self._image(version.image_arn).state is not ImageState.DELETING:
                self._settle(version.image_arn, ImageState.CREATED, ImageState.UPDATED, None)
            elif not _count(self._db.all("count_versions", image_arn=version.image_arn)):
                self._forget_image(version.image_arn)

    async def build_ids(self) -> set[str]:
        """Every build that a row names; the log of any other is left over."""
        return {row["id"] for row in self._db.all("build_ids")}

    def _forget_image(self, arn: str) -> None:
        self._db.run("forget_image", arn=arn)
        self._db.run("forget_client_tokens", subject=arn)
        self._tell(arn, f"image {ImageState.DELETED.value}", "nothing of it is left")
        events.end(self._db, arn, self._clock())

    def _steady(self, arn: str) -> Image:
        """The image. Raises NotFound, and Refused while something of it is built or removed."""
        image = self._image(arn)
        if image.state in _MOVING:
            raise Refused(f"MicroVM Image is already in state: {image.state.value}")
        return image

    def _there(self, arn: str, version: str) -> Version:
        row = self._db.one("version", image_arn=arn, version=version)
        if row is None:
            raise NotFound(f"MicroVMImage not found for MicroVMImage: {arn}, Version: {version}")
        return read_version(row)

    def _change(self, version: Version, to: VersionState, status: VersionStatus) -> Version:
        row = self._db.one(
            "change_version",
            image_arn=version.image_arn,
            version=version.version,
            revision=version.revision,
            state=to.value,
            status=status.value,
            updated_at_ms=self._clock(),
        )
        if row is None:
            raise Stale(f"{version.image_arn} {version.version}: {to.value}, but revision {version.revision} is over")
        return read_version(row)


def _count(rows: list[Row]) -> int:
    return int(rows[0]["count"])


def _token_subject(version: Version) -> str:
    """What a client token of an update made: forgotten with the version."""
    return f"{version.image_arn} {version.version}"
