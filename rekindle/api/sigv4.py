"""AWS Signature Version 4, as a header or in the query of a URL: who signed this request, and is it what they signed?

Pure: a request and the time in, an identity or `Denied` (with AWS's code and text) out. Service `s3` differs from all
others in five places, and they are all in this file and in `sigv4_canonical`: the path is encoded once and not
normalised, every `x-amz-*` header must be signed, the payload hash comes from `x-amz-content-sha256` (also
UNSIGNED-PAYLOAD and STREAMING-*; the *caller* checks the body against it while it streams), the clock may differ by 15
minutes instead of 5, and the error codes are S3's. Reference: "Create a signed AWS API request" in the IAM user guide.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from rekindle.api import sigv4_query
from rekindle.api import sigv4_refusals as refusals
from rekindle.api.sigv4_canonical import SignedRequest as SignedRequest
from rekindle.api.sigv4_canonical import canonical_request, values_of
from rekindle.api.sigv4_query import Expired
from rekindle.core.errors import Denied

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-"

_SKEW_S = {"s3": 15 * 60}
_DEFAULT_SKEW_S = 5 * 60
_HEX64 = re.compile(r"[0-9a-f]{64}")
_PRESIGN = frozenset({"X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential"})


@dataclass(frozen=True, slots=True)
class Identity:
    key_id: str
    region: str


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that was checked, with what signing the chunks of its body needs (aws-chunked)."""

    key_id: str
    region: str
    scope: str  #: `<date>/<region>/<service>/aws4_request`
    timestamp: str  #: `YYYYMMDDTHHMMSSZ`
    signature: str
    payload: str  #: what was signed in place of the body: its SHA-256, UNSIGNED-PAYLOAD or STREAMING-*
    signing_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The Authorization header or the query, taken apart and not yet believed."""

    key_id: str
    date: str
    region: str
    service: str
    terminator: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    life_s: int | None = None  #: of a presigned URL

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{self.terminator}"


def verify(request: SignedRequest, secret_of: Callable[[str], str | None], *, service: str, now_ms: int) -> Identity:
    """Who signed `request`. Raises Denied with AWS's code."""
    checked = check(request, secret_of, service=service, now_ms=now_ms)
    return Identity(checked.key_id, checked.region)


def check(request: SignedRequest, secret_of: Callable[[str], str | None], *, service: str, now_ms: int) -> Signature:
    """As `verify`, and returns the whole signature. `secret_of` is called at most once."""
    claim = _claim(request, service)
    timestamp = claim.timestamp
    _check_scope(claim, timestamp, service)
    _check_clock(claim, service, now_ms)
    _check_signed_headers(request, claim, service)
    payload = _payload(request, claim, service)
    secret = secret_of(claim.key_id)
    if secret is None:
        refusals.unknown_key(service)
    key = signing_key(secret, claim.date, claim.region, claim.service)
    query = request.query_raw if claim.life_s is None else sigv4_query.unsigned(request.query_raw)
    canonical = canonical_request(replace(request, query_raw=query), claim.signed_headers, payload, service)
    text = f"{ALGORITHM}\n{timestamp}\n{claim.scope}\n{hashlib.sha256(canonical).hexdigest()}"
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        refusals.mismatch(service)
    return Signature(claim.key_id, claim.region, claim.scope, timestamp, expected, payload, key)


def claimed_key_id(request: SignedRequest, *, service: str) -> str:
    """The access key that `request` names, not yet proven: look its secret up, then `verify`. Raises as `verify`."""
    return _claim(request, service).key_id


@lru_cache(maxsize=256)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of one secret, day, region and service; 16 us to derive, so the last ones are kept."""
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


# --- reading the claim


def _claim(request: SignedRequest, service: str) -> _Claim:
    values = values_of(request, "authorization")
    presigned = not _PRESIGN.isdisjoint(sigv4_query.names(request.query_raw))
    if presigned and values:
        refusals.two_mechanisms(service)
    if presigned:
        return _query_claim(request, service)
    if not values:
        refusals.no_authorization(service)
    text = values[0].strip()
    if len(values) > 1 or not text.startswith(ALGORITHM):
        refusals.incomplete(service, text, f"Authorization header must use {ALGORITHM} once.")
    parts = _parameters(text[len(ALGORITHM) :])
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        refusals.incomplete(
            service, text, " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        )
    credential = parts["Credential"].rsplit("/", 4)
    if len(credential) != 5:
        refusals.incomplete(service, text, "Credential must have exactly 5 slash-delimited elements.")
    key_id, date, region, scoped, terminator = credential
    signed = tuple(parts["SignedHeaders"].lower().split(";"))
    stamp = _timestamp(request, service)
    return _Claim(key_id, date, region, scoped, terminator, signed, parts["Signature"], stamp)


def _query_claim(request: SignedRequest, service: str) -> _Claim:
    values = sigv4_query.parameters(request.query_raw, service)
    credential = values["Credential"].rsplit("/", 4)
    if len(credential) != 5:
        text = 'Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting "'
        raise sigv4_query.malformed(f'{text}<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".', service)
    at = _basic(values["Date"])
    if at is None:
        text = "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""
        raise sigv4_query.malformed(text, service)
    key_id, date, region, scoped, terminator = credential
    signed = tuple(values["SignedHeaders"].lower().split(";"))
    life_s = sigv4_query.life_s(values["Expires"], service)
    return _Claim(key_id, date, region, scoped, terminator, signed, values["Signature"], values["Date"], life_s)


def _parameters(text: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in text.split(","))
    return {name: value for name, _, value in pairs}


def _timestamp(request: SignedRequest, service: str) -> str:
    """`x-amz-date`, else `date` in either form, as `YYYYMMDDTHHMMSSZ`."""
    values = values_of(request, "x-amz-date") or values_of(request, "date")
    if not values:
        text = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        refusals.incomplete(service, values_of(request, "authorization")[0], text)
    at = _instant(values[0].strip())
    if at is None:
        refusals.incomplete(service, values_of(request, "authorization")[0], "Date must be in ISO-8601 'basic format'.")
    return at.strftime("%Y%m%dT%H%M%SZ")


def _basic(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _instant(text: str) -> datetime | None:
    at = _basic(text)
    if at is not None:
        return at
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- checks before any secret is looked at


def _check_scope(claim: _Claim, timestamp: str, service: str) -> None:
    faults = []
    if claim.date != timestamp[:8]:
        faults.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{claim.date}' != '{timestamp[:8]}', from '{timestamp}'."
        )
    if not claim.region:
        faults.append("Credential should be scoped to a valid region.")
    if claim.service != service:
        faults.append(f"Credential should be scoped to correct service: '{service}'.")
    if claim.terminator != TERMINATOR:
        faults.append(f"Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{claim.terminator}'.")
    if faults and service == "s3":
        raise Denied(f"The authorization header is malformed; {' '.join(faults)}", code="AuthorizationHeaderMalformed")
    if faults:
        raise Denied(" ".join(faults), code="InvalidSignatureException")


def _check_clock(claim: _Claim, service: str, now_ms: int) -> None:
    timestamp = claim.timestamp
    skew_s = _SKEW_S.get(service, _DEFAULT_SKEW_S)
    now_s = now_ms // 1000
    at = _instant(timestamp)
    difference_s = (at.timestamp() if at else 0) - now_s
    before_s = skew_s if claim.life_s is None else claim.life_s
    if -before_s <= difference_s <= skew_s:
        return
    if service == "s3" and claim.life_s is not None:
        if difference_s > 0:
            raise Denied("Request is not valid yet", code="AccessDenied")
        raise Expired((now_s + int(difference_s) + before_s) * 1000, now_ms)
    if service == "s3":
        text = "The difference between the request time and the current time is too large."
        raise Denied(text, code="RequestTimeTooSkewed")
    bound_s = now_s - before_s if difference_s < 0 else now_s + skew_s
    bound, now = (datetime.fromtimestamp(s, UTC).strftime("%Y%m%dT%H%M%SZ") for s in (bound_s, now_s))
    if difference_s < 0:
        text = f"Signature expired: {timestamp} is now earlier than {bound} ({now} - {before_s // 60} min.)"
    else:
        text = f"Signature not yet current: {timestamp} is still later than {bound} ({now} + {skew_s // 60} min.)"
    raise Denied(text, code="InvalidSignatureException")


def _check_signed_headers(request: SignedRequest, claim: _Claim, service: str) -> None:
    if "host" not in claim.signed_headers:
        text = "'Host' must be a 'SignedHeader' in the AWS Authorization."
        raise Denied(text, code="AccessDenied" if service == "s3" else "InvalidSignatureException")
    if service == "s3":
        unsigned = sorted(
            {key.lower() for key, _ in request.headers if key.lower().startswith("x-amz-")} - set(claim.signed_headers)
        )
        if unsigned:
            text = f"There were headers present in the request which were not signed: {', '.join(unsigned)}"
            raise Denied(text, code="AccessDenied")


def _payload(request: SignedRequest, claim: _Claim, service: str) -> str:
    """What stands for the body in the canonical request."""
    values = values_of(request, "x-amz-content-sha256")
    if service == "s3":
        return UNSIGNED if claim.life_s is not None else _s3_payload(values)
    if not values or "x-amz-content-sha256" not in claim.signed_headers:
        return request.body_sha256
    if len(values) > 1 or not hmac.compare_digest(values[0].encode(), request.body_sha256.encode()):
        refusals.mismatch(service)  # also UNSIGNED-PAYLOAD and STREAMING-*: those are S3's
    return values[0]


def _s3_payload(values: list[str]) -> str:
    if not values:
        raise Denied("Missing required header for this request: x-amz-content-sha256", code="InvalidRequest")
    value = values[0]
    if len(values) > 1 or not (value == UNSIGNED or value.startswith(STREAMING) or _HEX64.fullmatch(value)):
        text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-* or a valid sha256 value."
        raise Denied(text, code="InvalidArgument")
    return value
