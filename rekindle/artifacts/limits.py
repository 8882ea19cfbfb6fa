"""The ceilings of the store; S3's own where S3 has one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    put_bytes: int = 5 << 30  #: one PutObject or UploadPart
    object_bytes: int = 5 << 40  #: one object, all parts together
    document_bytes: int = 4 << 20  #: an XML request body; 10,000 parts with checksums fit
    part_min_bytes: int = 5 << 20  #: every part but the last
    parts: int = 10_000
    page: int = 1000  #: keys, uploads or parts in one answer; keys in one DeleteObjects
    metadata_bytes: int = 2048
    upload_kept_s: int = 7 * 86_400  #: an unfinished multipart upload is swept at a start after that
    drain_bytes: int = 1 << 20  #: of a refused body that is read to keep the connection
