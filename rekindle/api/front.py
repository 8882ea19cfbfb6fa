"""What clients send to the service's root: other AWS services, whose protocols have no paths.

Scripts ask STS for their account, and log shippers call CloudWatch Logs; client.env points both here, so that no call
carries our keys to AWS. One operation is answered, GetCallerIdentity; every other gets an error in the protocol of its
service that says what is not there, with a status that no SDK comes back after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from rekindle.api.context import Caller, Raw, Reply
from rekindle.core.account import user_id
from rekindle.core.errors import Denied, RekindleError

Sign = Callable[[Raw, str], Awaitable[Caller]]

STS = "sts"
MAX_FIELDS = 1000  #: of a form; no operation that anybody asks here has more
_ACTION = re.compile(r"[A-Za-z0-9]{1,128}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9_.]{1,256}", re.ASCII)
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]")
_TARGET_OF_LOGS = "Logs_20140328"
#: Query APIs of which clients may ask something here, by the `Version` of their requests.
_VERSIONS = {"2011-06-15": STS, "2010-05-08": "iam"}
#: Asked without a signature, on AWS too.
_UNSIGNED = ("AssumeRoleWithSAML", "AssumeRoleWithWebIdentity")
_STS_XMLNS = "https://sts.amazonaws.com/doc/2011-06-15/"
_MISSING = {
    STS: "Rekindle has no STS but GetCallerIdentity: there are no temporary credentials; keys are made by "
    "`rekindle key create`.",
    "iam": "Rekindle has no IAM: keys and their policies are made by `rekindle key create`, roles are not assumed.",
    "logs": "Rekindle does not serve CloudWatch Logs; `rekindle logs` shows the output of a microVM's app and "
    "`rekindle image logs` the log of a build.",
}
#: What query APIs call the refusals of a signature.
_QUERY_CODES = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "IncompleteSignatureException": "IncompleteSignature",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
}


class _Dialect(Protocol):
    def refusal(self, status: int, code: str, message: str, request_id: str) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Foreign:
    """A request for another service than Lambda."""

    service: str  #: as credential scopes name it
    operation: str
    dialect: _Dialect


class _Json:
    """AWS JSON 1.1: CloudWatch Logs and everything else that names its operation in `X-Amz-Target`."""

    def refusal(self, status: int, code: str, message: str, request_id: str) -> Reply:
        del request_id  # Edge puts it into a header
        body = json.dumps({"__type": code, "message": message}).encode()
        return Reply(status, body, {"content-type": "application/x-amz-json-1.1", "x-amzn-errortype": code})


class _Query:
    """The query protocol: STS, IAM and everything else that names its operation in `Action`."""

    def refusal(self, status: int, code: str, message: str, request_id: str) -> Reply:
        error = f"<Type>Sender</Type><Code>{_text(code)}</Code><Message>{_text(message)}</Message>"
        body = f"<ErrorResponse><Error>{error}</Error><RequestId>{_text(request_id)}</RequestId></ErrorResponse>"
        return _xml(status, body)


def asked(raw: Raw) -> Foreign | None:
    """What `raw` asks of another service; None when it is not for one. No operation of our own has the path `/`."""
    if raw.path != "/":
        return None
    headers = {name.lower(): value for name, value in raw.headers}
    service, target = _scope(raw, headers.get("authorization", "")), headers.get("x-amz-target")
    if target is not None and _TARGET.fullmatch(target):
        prefix, _, operation = target.rpartition(".")
        return Foreign(service or ("logs" if prefix == _TARGET_OF_LOGS else prefix), operation, _Json())
    form = _form(raw)
    if _ACTION.fullmatch(form.get("Action", "")) is None:
        return None
    return Foreign(service or _VERSIONS.get(form.get("Version", ""), "unknown"), form["Action"], _Query())


async def answer(raw: Raw, foreign: Foreign, sign: Sign) -> Reply:
    """`sign`: who made a request that is signed for a service; raises Denied."""
    try:
        if foreign.operation not in _UNSIGNED:
            caller = await sign(raw, foreign.service)
            if (foreign.service, foreign.operation) == (STS, "GetCallerIdentity"):
                return _identity(raw, caller)
    except RekindleError as err:
        code = err.code if isinstance(err, Denied) else "InvalidRequest"
        if isinstance(foreign.dialect, _Query):
            code = _QUERY_CODES.get(code, code)
        return foreign.dialect.refusal(HTTPStatus.FORBIDDEN, code, err.message, raw.request_id)
    code = "InvalidAction" if isinstance(foreign.dialect, _Query) else "UnsupportedOperationException"
    known = _MISSING.get(foreign.service, "Rekindle serves Lambda MicroVMs and an artifact store, no other service.")
    message = f"{foreign.operation} is not there. {known}"
    return foreign.dialect.refusal(HTTPStatus.BAD_REQUEST, code, message, raw.request_id)


def _identity(raw: Raw, caller: Caller) -> Reply:
    """GetCallerIdentity: the user that the key stands for. Its id is the key's own, in the form of user ids."""
    user = _text(user_id(caller.key_id))
    result = f"<Arn>{_text(caller.principal)}</Arn><UserId>{user}</UserId><Account>{caller.account}</Account>"
    metadata = f"<ResponseMetadata><RequestId>{_text(raw.request_id)}</RequestId></ResponseMetadata>"
    body = (
        f'<GetCallerIdentityResponse xmlns="{_STS_XMLNS}"><GetCallerIdentityResult>{result}</GetCallerIdentityResult>'
        f"{metadata}</GetCallerIdentityResponse>"
    )
    return _xml(HTTPStatus.OK, body)


def _text(text: str) -> str:
    """`text` inside an element; what XML cannot hold is left out."""
    return escape(_NOT_XML.sub("", text))


def _xml(status: int, body: str) -> Reply:
    return Reply(int(status), body.encode(), {"content-type": "text/xml"})


def _scope(raw: Raw, authorization: str) -> str | None:
    """The service in a credential scope, of the header or of a presigned URL; not yet proven."""
    _, _, rest = authorization.partition("Credential=")
    credential = rest.partition(",")[0] or _values(raw.query).get("X-Amz-Credential", "")
    parts = credential.split("/")
    return parts[-2] if len(parts) >= 5 else None


def _form(raw: Raw) -> dict[str, str]:
    """The parameters of a query API: in the URL, where presigned ones are, and in the body."""
    return _values(raw.query) | _values(raw.body.decode("latin-1"))


def _values(text: str) -> dict[str, str]:
    """The last value of each parameter; none of what is no form."""
    try:
        pairs = parse_qs(text, max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in pairs.items()}
