"""What the query of a presigned URL says: the same claim as the Authorization header's, with a life of its own."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from rekindle.core.errors import Denied

ALGORITHM = "AWS4-HMAC-SHA256"
MOST_S = 604_800
_NEEDED = ("Algorithm", "Credential", "Signature", "Date", "SignedHeaders", "Expires")
_MISSING = (
    "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
    "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
)


class Expired(Denied):
    """A URL of S3 whose time is over."""

    def __init__(self, expires_ms: int, now_ms: int) -> None:
        super().__init__("Request has expired", code="AccessDenied")
        self.expires_ms = expires_ms
        self.now_ms = now_ms


def names(query_raw: str) -> list[str]:
    return [unquote(part.partition("=")[0], encoding="latin-1") for part in query_raw.split("&") if part]


def unsigned(query_raw: str) -> str:
    """The query without the signature itself: what was signed."""
    parts = query_raw.split("&")
    return "&".join(part for part in parts if names(part) != ["X-Amz-Signature"])


def parameters(query_raw: str, service: str) -> Mapping[str, str]:
    """`X-Amz-*` of a presigned URL without the prefix, each there once. Raises Denied."""
    found: dict[str, str] = {}
    for part in query_raw.split("&"):
        name, _, value = part.partition("=")
        name = unquote(name, encoding="latin-1")
        if name.startswith("X-Amz-"):
            if name in found:
                raise malformed(f"{name} must be given once.", service)
            found[name] = unquote(value, encoding="latin-1")
    values = {name.removeprefix("X-Amz-"): value for name, value in found.items()}
    if not all(values.get(name) for name in _NEEDED):
        raise malformed(_MISSING, service)
    if values["Algorithm"] != ALGORITHM:
        raise malformed(f'X-Amz-Algorithm only supports "{ALGORITHM}"', service)
    if "Security-Token" in values:
        raise _no_session(service)
    return values


def life_s(text: str, service: str) -> int:
    """X-Amz-Expires, 1 to 604800. Raises Denied."""
    if not (text.isascii() and text.isdigit()):
        raise malformed("X-Amz-Expires should be a number", service)
    if len(text) > 9 or int(text) > MOST_S:
        raise malformed(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than "
            f"{MOST_S} seconds",
            service,
        )
    if int(text) == 0:
        raise malformed("X-Amz-Expires must be at least 1", service)
    return int(text)


def malformed(text: str, service: str) -> Denied:
    return Denied(text, code="AuthorizationQueryParametersError" if service == "s3" else "IncompleteSignatureException")


def _no_session(service: str) -> Denied:
    """There are no temporary credentials here, so no token can be right."""
    if service == "s3":
        return Denied("The provided token is malformed or otherwise invalid.", code="InvalidToken")
    return Denied("The security token included in the request is invalid.", code="UnrecognizedClientException")
