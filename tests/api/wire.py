"""A client made of botocore's own serialiser, signer and parser, and an engine that only writes down its orders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, create_request_object, prepare_request_dict
from botocore.credentials import Credentials
from botocore.model import OperationModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from rekindle.api import model
from rekindle.api.app import Api
from rekindle.api.context import Raw, Reply
from rekindle.core.managed import Managed
from rekindle.core.microvm import MicroVM
from rekindle.core.token import Claims
from rekindle.seal import TokenKey, seal
from tests.store.rows import REGION

BASE = f"arn:aws:lambda:{REGION}:aws:microvm-image:debian-13"
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

    def mint(self, vm: MicroVM, ports: Sequence[tuple[int, int]], expires_at_s: int) -> str:
        claims = Claims(vm_id=vm.id, generation=vm.generation, ports=tuple(ports), expires_at_s=expires_at_s)
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


def operation(name: str, service: str = "lambda-microvms") -> OperationModel:
    return model.service(service).operation_model(name)


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

    async def call(self, name: str, **params: Any) -> Answer:
        op = operation(name)
        reply = await self.api.answer(sign(http(op, params), self.key, self.region))
        return Answer(reply, read(op, reply))

    async def ok(self, name: str, **params: Any) -> Any:
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
