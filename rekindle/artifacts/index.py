"""The rows behind the store. Every method is one transaction, durable when it returns.

Methods that replace or delete return the blobs that no row names any more: the caller unlinks them *after* the commit,
so that a crash in between leaves an orphan to sweep and never a row without its bytes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rekindle.artifacts.blobs import Segment
from rekindle.artifacts.checksums import Algorithm, Checksum, Kind
from rekindle.artifacts.conditions import Condition
from rekindle.artifacts.errors import S3Error
from rekindle.store import sql
from rekindle.store.database import Database, Row

_HERE = Path(__file__).parent
_SETTINGS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000")


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    account: str
    region: str
    created_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    bucket: str
    key: str
    id: str
    size_bytes: int
    etag: str  #: without quotes
    updated_at_ms: int
    headers: Mapping[str, str]  #: what GET gives back: content-type, x-amz-meta-*, ...
    checksum: Checksum | None
    upload: str | None = None  #: the multipart upload that made it


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    id: str
    bucket: str
    key: str
    created_at_ms: int
    headers: Mapping[str, str]
    algorithm: Algorithm | None
    kind: Kind | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    number: int
    segment: Segment
    etag: str
    checksum: Checksum | None
    updated_at_ms: int


class Index:
    def __init__(self, path: Path) -> None:
        """Open or make the index, 0600."""
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None)
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        connection.executescript((_HERE / "schema.sql").read_text())
        self._db = Database(connection, sql.parse((_HERE / "queries.sql").read_text()))

    def close(self) -> None:
        self._db.close()

    def known_blobs(self) -> set[str]:
        return {row["blob"] for row in self._db.all("blobs")}

    # --- buckets

    def bucket(self, name: str) -> Bucket | None:
        row = self._db.one("bucket", name=name)
        return Bucket(**row) if row else None

    def buckets(self, account: str) -> list[Bucket]:
        return [Bucket(**row) for row in self._db.all("buckets", account=account)]

    def add_bucket(self, bucket: Bucket) -> None:
        """Raises S3Error when the name is taken, by whomever."""
        with self._db.transaction():
            taken = self.bucket(bucket.name)
            if taken is not None:
                raise S3Error("BucketAlreadyOwnedByYou" if taken.account == bucket.account else "BucketAlreadyExists")
            self._db.run(
                "add_bucket",
                name=bucket.name,
                account=bucket.account,
                region=bucket.region,
                created_at_ms=bucket.created_at_ms,
            )

    def delete_bucket(self, name: str) -> list[str]:
        """Raises S3Error while it holds objects; unfinished uploads go with it."""
        with self._db.transaction():
            if self._db.all("objects_from", bucket=name, first="", limit=1):
                raise S3Error("BucketNotEmpty", BucketName=name)
            uploads = [row["id"] for row in self._db.all("uploads_of", bucket=name)]
            freed = [blob for upload in uploads for blob in self._drop_upload(upload)]
            self._db.run("delete_bucket", name=name)
        return freed

    # --- objects

    def object(self, bucket: str, key: str) -> Object | None:
        row = self._db.one("object", bucket=bucket, key=key)
        return _object(row) if row else None

    def objects_from(self, bucket: str, first: str, limit: int) -> list[Object]:
        """Objects whose key is `first` or later, in S3's order."""
        return [_object(row) for row in self._db.all("objects_from", bucket=bucket, first=first, limit=limit)]

    def segments(self, found: Object) -> list[Segment]:
        return [Segment(row["blob"], row["size_bytes"]) for row in self._db.all("segments", object=found.id)]

    def put_object(self, new: Object, segments: Sequence[Segment], condition: Condition) -> list[str]:
        """Make `new` what its key holds. Raises S3Error: the bucket is gone, or `condition` refuses what it holds."""
        with self._db.transaction():
            return self._put_object(new, segments, condition)

    def _put_object(self, new: Object, segments: Sequence[Segment], condition: Condition) -> list[str]:
        if self.bucket(new.bucket) is None:
            raise S3Error("NoSuchBucket", BucketName=new.bucket)
        condition(self.object(new.bucket, new.key))
        freed = self._drop_object(new.bucket, new.key)
        self._db.run(
            "put_object",
            bucket=new.bucket,
            key=new.key,
            id=new.id,
            size_bytes=new.size_bytes,
            etag=new.etag,
            updated_at_ms=new.updated_at_ms,
            headers=json.dumps(dict(new.headers)),
            checksum=_dump(new.checksum),
            upload=new.upload,
        )
        for number, segment in enumerate(segments):
            self._db.run("add_segment", object=new.id, number=number, blob=segment.blob, size_bytes=segment.size_bytes)
        return freed

    def delete_object(self, bucket: str, key: str, condition: Condition) -> list[str]:
        """An absent key is no error unless `condition` says so."""
        with self._db.transaction():
            condition(self.object(bucket, key))
            return self._drop_object(bucket, key)

    def delete_objects(self, bucket: str, keys: Sequence[str]) -> list[str]:
        """Absent keys are no error, as on S3."""
        with self._db.transaction():
            return [blob for key in keys for blob in self._drop_object(bucket, key)]

    def _drop_object(self, bucket: str, key: str) -> list[str]:
        old = self.object(bucket, key)
        if old is None:
            return []
        freed = [segment.blob for segment in self.segments(old)]
        self._db.run("delete_segments", object=old.id)
        self._db.run("delete_object", bucket=bucket, key=key)
        return freed

    # --- multipart uploads

    def add_upload(self, upload: Upload) -> None:
        self._db.run(
            "add_upload",
            id=upload.id,
            bucket=upload.bucket,
            key=upload.key,
            created_at_ms=upload.created_at_ms,
            headers=json.dumps(dict(upload.headers)),
            algorithm=upload.algorithm.name if upload.algorithm else None,
            kind=upload.kind.name if upload.kind else None,
        )

    def upload(self, upload_id: str, bucket: str, key: str) -> Upload | None:
        row = self._db.one("upload", id=upload_id, bucket=bucket, key=key)
        return _upload(row) if row else None

    def uploads_from(self, bucket: str, first: str) -> list[Upload]:
        return [_upload(row) for row in self._db.all("uploads", bucket=bucket, first=first)]

    def parts(self, upload_id: str) -> list[Part]:
        return [_part(row) for row in self._db.all("parts", upload=upload_id)]

    def put_part(self, upload: Upload, part: Part) -> list[str]:
        """Raises S3Error when the upload was completed or aborted meanwhile."""
        with self._db.transaction():
            if self.upload(upload.id, upload.bucket, upload.key) is None:
                raise S3Error("NoSuchUpload", UploadId=upload.id)
            freed = [row["blob"] for row in self._db.all("delete_part", upload=upload.id, number=part.number)]
            self._db.run(
                "put_part",
                upload=upload.id,
                number=part.number,
                blob=part.segment.blob,
                size_bytes=part.segment.size_bytes,
                etag=part.etag,
                checksum=_dump(part.checksum),
                updated_at_ms=part.updated_at_ms,
            )
        return freed

    def complete(self, upload: Upload, new: Object, parts: Sequence[Part], condition: Condition) -> list[str]:
        """Turn `parts` into the object; the upload's other parts are freed."""
        with self._db.transaction():
            used = {part.segment.blob for part in parts}
            if not used <= {part.segment.blob for part in self.parts(upload.id)}:
                raise S3Error("InvalidPart", UploadId=upload.id)
            unused = [blob for blob in self._drop_upload(upload.id) if blob not in used]
            segments = [part.segment for part in parts]
            return unused + self._put_object(new, segments, condition)

    def abort(self, upload_id: str) -> list[str]:
        with self._db.transaction():
            return self._drop_upload(upload_id)

    def abort_before(self, before_ms: int) -> list[str]:
        """Drop every upload that was begun before that instant."""
        with self._db.transaction():
            old = [row["id"] for row in self._db.all("uploads_before", before_ms=before_ms)]
            return [blob for upload in old for blob in self._drop_upload(upload)]

    def _drop_upload(self, upload_id: str) -> list[str]:
        freed = [part.segment.blob for part in self.parts(upload_id)]
        self._db.run("delete_upload", id=upload_id)
        return freed


def new_id() -> str:
    return uuid.uuid4().hex


def _dump(checksum: Checksum | None) -> str | None:
    if checksum is None:
        return None
    return json.dumps([checksum.algorithm.name, checksum.value, checksum.kind.name])


def _load(text: str | None) -> Checksum | None:
    if text is None:
        return None
    algorithm, value, kind = json.loads(text)
    return Checksum(Algorithm[algorithm], value, Kind[kind])


def _object(row: Row) -> Object:
    values = dict(row)
    return Object(**values | {"headers": json.loads(row["headers"]), "checksum": _load(row["checksum"])})


def _upload(row: Row) -> Upload:
    algorithm = Algorithm[row["algorithm"]] if row["algorithm"] else None
    kind = Kind[row["kind"]] if row["kind"] else None
    return Upload(**dict(row) | {"headers": json.loads(row["headers"]), "algorithm": algorithm, "kind": kind})


def _part(row: Row) -> Part:
    return Part(
        number=row["number"],
        segment=Segment(row["blob"], row["size_bytes"]),
        etag=row["etag"],
        checksum=_load(row["checksum"]),
        updated_at_ms=row["updated_at_ms"],
    )
