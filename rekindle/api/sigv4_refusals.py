"""What a signature is refused with: AWS's codes and texts, S3's where the service is `s3`. Each raises Denied."""

from __future__ import annotations

import base64
import hashlib
from typing import NoReturn

from rekindle.core.errors import Denied

_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
_S3_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)


def two_mechanisms(service: str) -> NoReturn:
    """Signed in the query and in a header."""
    text = (
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter "
        "or the Authorization header should be specified"
    )
    raise Denied(text, code="InvalidArgument" if service == "s3" else "IncompleteSignatureException")


def no_authorization(service: str) -> NoReturn:
    """Signed nowhere."""
    if service == "s3":
        raise Denied("Access Denied", code="AccessDenied")
    raise Denied("Missing Authentication Token", code="MissingAuthenticationTokenException")


def incomplete(service: str, header: str, text: str) -> NoReturn:
    """A header that is not the form of AWS; its text is told by its hash."""
    if service == "s3":
        raise Denied(f"The authorization header is malformed; {text}", code="AuthorizationHeaderMalformed")
    digest = base64.b64encode(hashlib.sha256(header.encode("latin-1")).digest()).decode()
    shown = f"{text} (Hashed with SHA-256 and encoded with Base64) Authorization={digest}"
    raise Denied(shown, code="IncompleteSignatureException")


def unknown_key(service: str) -> NoReturn:
    """No such access key."""
    if service == "s3":
        text = "The AWS Access Key Id you provided does not exist in our records."
        raise Denied(text, code="InvalidAccessKeyId")
    raise Denied("The security token included in the request is invalid.", code="UnrecognizedClientException")


def mismatch(service: str) -> NoReturn:
    """The signature is of something else."""
    if service == "s3":
        raise Denied(_S3_NO_MATCH, code="SignatureDoesNotMatch")
    raise Denied(_NO_MATCH, code="InvalidSignatureException")
