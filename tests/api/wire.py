"""A client made of botocore's own serialiser, signer and parser, and an engine that only writes down its orders."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, create_request_object, prepare_request_dict
from botocore.credentials import Credentials
from botocore.model import OperationModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from rekindle.api import model, sigv4, sigv4_canonical
from rekindle.api.app import Api
from rekindle.api.context import Raw, Reply
from rekindle.core.managed import Managed
from rekindle.core.microvm import MicroVM
from rekindle.core.token import Claims
from rekindle.seal import TokenKey, seal
from tests.store.rows import REGION

BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:debian-13"
AWS_BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"  #: an alias
ROLE = "arn:aws:iam::000000000000:role/build"
TOKEN_KEY = TokenKey("11111111-1111-1111-1111-111111111111", bytes(32))


@dataclass
class RecordingEngine:
    """Does what an engine promises to the API and nothing to any machine."""

    admitted: list[str] = field(default_factory=list)
    kicks: int = 0

    async def admit(self, vm: MicroVM) -> MicroVM:
        self.admitted.append(vm.id)
        return vm

    def kick(self) -> None:
        self.kicks += 1

    def endpoint(self, vm: MicroVM) -> str:
        return f"localhost:{vm.endpoint_port}"

    def mint(self, vm: MicroVM, ports: Sequence[tuple[int, int]], expires_at_s: int, use: str) -> str:
        claims = Claims(vm_id=vm.id, generation=vm.generation, ports=tuple(ports), expires_at_s=expires_at_s, use=use)
        return seal(TOKEN_KEY, claims)

    def managed(self) -> Managed:
        return Managed("debian-13", "1", 1_780_000_000_000)


@dataclass(frozen=True)
class Answer:
    reply: Reply
    parsed: Mapping[str, Any]  #: what botocore makes of it, without ResponseMetadata

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def json(self) -> Any:
        return json.loads(self.reply.body)

    @property
    def error(self) -> tuple[str, str]:
        return self.parsed["Error"]["Code"], self.parsed["Error"]["Message"]


def operation(name: str) -> OperationModel:
    """By its name alone: no two services of ours share one."""
    return next(one.model for one in model.operations() if one.name == name)


def http(op: OperationModel, params: Mapping[str, Any], host: str = "http://127.0.0.1:7070") -> AWSRequest:
    """The request as botocore would send it."""
    request = create_serializer("rest-json", include_validation=False).serialize_to_request(dict(params), op)
    prepare_request_dict(request, endpoint_url=host, context={})
    return create_request_object(request)


def sign(request: AWSRequest, key: tuple[str, str], region: str = REGION) -> Raw:
    SigV4Auth(Credentials(*key), model.SIGNING_NAME, region).add_auth(request)
    return raw(request)


def raw(request: AWSRequest) -> Raw:
    sent = request.prepare()
    url = urlsplit(sent.url)
    body = sent.body or b""
    return Raw(
        request_id="00000000-0000-0000-0000-000000000000",
        method=sent.method,
        path=url.path,
        query=url.query,
        headers=(
            ("host", url.netloc),
            *(
                (name, value.decode() if isinstance(value, bytes) else str(value))
                for name, value in sent.headers.items()
            ),
        ),
        body=body.encode() if isinstance(body, str) else bytes(body),
    )


def read(op: OperationModel, reply: Reply) -> Mapping[str, Any]:
    answer = {"status_code": reply.status, "headers": {**reply.headers}, "body": reply.body}
    answer["headers"] = {name.lower(): value for name, value in reply.headers.items()}
    parsed: dict[str, Any] = create_parser("rest-json").parse(answer, op.output_shape)
    parsed.pop("ResponseMetadata")
    return parsed


@dataclass(frozen=True)
class Wire:
    api: Api
    key: tuple[str, str]
    region: str = REGION

    async def call(self, name: str, /, **params: Any) -> Answer:
        op = operation(name)
        reply = await self.api.answer(sign(http(op, params), self.key, self.region))
        return Answer(reply, read(op, reply))

    async def post(self, name: str, labels: Mapping[str, str], body: Any) -> Answer:
        """A body that no client would send, signed all the same."""
        op = operation(name)
        path = op.http["requestUri"].split("?")[0].format(**{one: quote(text, safe="") for one, text in labels.items()})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = AWSRequest(op.http["method"], f"http://127.0.0.1:7070{path}", data=data)
        reply = await self.api.answer(sign(request, self.key, self.region))
        return Answer(reply, read(op, reply))

    async def send(self, method: str, path: str) -> Answer:
        """A request that need not be one of the model's."""
        request = Raw("0", method, path, "", (("host", "127.0.0.1:7070"),), b"")
        return Answer(await self.api.answer(self.signed(request)), {})

    def signed(self, request: Raw) -> Raw:
        """Signed with sigv4's own arithmetic, so that any bytes can be: botocore refuses to send some."""
        at = datetime.fromtimestamp(self.api.tools.clock() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        key_id, secret = self.key
        scope = f"{at[:8]}/{self.region}/{model.SIGNING_NAME}/aws4_request"
        unsigned = sigv4.SignedRequest(
            request.method,
            request.path,
            request.query,
            (("host", "127.0.0.1:7070"), ("x-amz-date", at)),
            hashlib.sha256(request.body).hexdigest(),
        )
        names = ("host", "x-amz-date")
        canonical = sigv4_canonical.canonical_request(unsigned, names, unsigned.body_sha256, model.SIGNING_NAME)
        text = f"{sigv4.ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
        key = sigv4.signing_key(secret, at[:8], self.region, model.SIGNING_NAME)
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        header = f"{sigv4.ALGORITHM} Credential={key_id}/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
        return replace(request, headers=(*unsigned.headers, ("authorization", header)))

    async def ok(self, name: str, /, **params: Any) -> Any:
        """The answer's JSON as it was on the wire; fails unless the status is the model's."""
        answer = await self.call(name, **params)
        assert answer.status == operation(name).http["responseCode"], answer.reply.body
        return answer.json


def create_params(**changes: Any) -> dict[str, Any]:
    params = {
        "name": "demo",
        "baseImageArn": BASE,
        "buildRoleArn": ROLE,
        "codeArtifact": {"uri": "s3://code/demo.zip"},
    }
    return {name: value for name, value in (params | changes).items() if value is not None}
