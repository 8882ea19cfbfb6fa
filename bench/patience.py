"""Clients that go on: while service or relay are away a call is made again, and whoever never answers is stuck."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from bench.walk import Lost
from tests.e2e.cloud import Cloud

T = TypeVar("T")
AGAIN_S = 0.25
ANSWER_S = 75.0  #: the relay holds a request for 60
PATIENCE_S = 180.0  #: nothing takes so long on a machine that works, busy or not
TOKEN_MINUTES = 60
TOKEN_KEPT_S = 1800.0
OVER = "has been terminated"
_AWAY = (502, 503, 504)
#: Answers of the API that a later call need not get: somebody else's work is under way.
_MAY_PASS = ("ConflictException", "ThrottlingException", "InternalServerException", "ServiceException")


class NotNow(Exception):
    """The answer may be another one a moment later. The text before the first colon or bracket is its kind."""

    def kind(self) -> str:
        return re.split(r":| \(reached", str(self))[0].strip()


class Stuck(Lost):
    """No answer, or no end of a phase, within PATIENCE_S."""


@dataclass
class Tally:
    """Counts and times by name; used by several threads."""

    counts: dict[str, int] = field(default_factory=dict)
    times_s: dict[str, list[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + number

    def took(self, name: str, seconds: float) -> None:
        with self._lock:
            self.times_s.setdefault(name, []).append(seconds)

    def of(self, name: str) -> int:
        with self._lock:
            return self.counts.get(name, 0)


class Api:
    """The AWS API, by whoever serves at the moment. Every call here may be made twice."""

    def __init__(self, cloud: Cloud, tally: Tally) -> None:
        self.cloud = cloud
        self._tally = tally
        self._client: Any = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.tls = ssl.create_default_context(cafile=cloud.env()["REKINDLE_CA"])

    def call(self, operation: str, **members: object) -> dict[str, Any]:
        """Raises Stuck, or ClientError for a refusal that stays."""
        return self.persist(operation, lambda: self._once(operation, members))

    def operator(self, path: str) -> dict[str, Any]:
        """GET of the operator's API; a wire that is broken off is tried again."""

        def once() -> dict[str, Any]:
            transport = httpx.HTTPTransport(uds=str(self.cloud.state / "run/operator.sock"))
            try:
                with httpx.Client(transport=transport, base_url="http://operator", timeout=30) as http_:
                    answer: dict[str, Any] = http_.get(path).raise_for_status().json()
                    return answer
            except httpx.HTTPError as err:
                raise NotNow(f"{type(err).__name__}: {err}") from err

        return self.persist(path, once)

    def persist(self, what: str, once: Callable[[], T], within_s: float = PATIENCE_S) -> T:
        """The first answer of `once` that is not NotNow. Raises Stuck."""
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return once()
            except NotNow as err:
                if time.monotonic() > deadline_s:
                    raise Stuck(f"{what}: nothing within {within_s:.0f} s; last: {err}") from err
                self._tally.count(f"asked again: {err.kind()}")
            self._over.wait(AGAIN_S)

    def until(self, what: str, true: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
        """Wait for a condition. Raises Stuck."""
        deadline_s = time.monotonic() + within_s
        while not true():
            if time.monotonic() > deadline_s:
                raise Stuck(f"{what}: not within {within_s:.0f} s")
            self._over.wait(AGAIN_S)

    def _once(self, operation: str, members: Mapping[str, object]) -> dict[str, Any]:
        client = self._current()
        try:
            answer: dict[str, Any] = getattr(client, operation)(**members)
        except BotoCoreError as err:
            self._forget(client)
            raise NotNow(f"{type(err).__name__}: {err}") from err
        except ClientError as err:
            status = err.response["ResponseMetadata"]["HTTPStatusCode"]
            if OVER in str(err) and operation != "terminate_microvm":
                raise Lost(f"{operation}: {err}") from err
            if status >= 500 or err.response["Error"]["Code"] in _MAY_PASS:
                raise NotNow(str(err)) from err
            raise
        return answer

    def _current(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self.cloud.client()
            return self._client

    def _forget(self, client: Any) -> None:
        """The next service may listen elsewhere."""
        with self._lock:
            if self._client is client:
                self._client = None


class Endpoint:
    """One microVM's endpoint, with a token that is renewed in time."""

    def __init__(self, api: Api, vm_id: str, where: str, port: int) -> None:
        self._api = api
        self._vm_id = vm_id
        self._where = where
        self._port = port
        self._headers: dict[str, str] = {}
        self._until_s = 0.0

    def ask(self, method: str, path: str, body: str | None = None) -> str:
        """One request. Raises NotNow when it may or may not have been carried out."""
        headers = self._token()
        host, _, port = self._where.partition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=self._api.tls, timeout=ANSWER_S)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as err:
            raise NotNow(f"{type(err).__name__}: {err}") from err
        finally:
            connection.close()
        if response.status in _AWAY:
            raise NotNow(f"{response.status} {response.headers.get('x-aws-proxy-error', '')}: {text[:200]}")
        if response.status != http.client.OK:
            raise Lost(f"{method} {path} was answered {response.status}: {text[:300]}")
        return text

    def json(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ask(method, path, body))
        return answer

    def _token(self) -> dict[str, str]:
        if time.monotonic() > self._until_s:
            answer = self._api.call(
                "create_microvm_auth_token",
                microvmIdentifier=self._vm_id,
                expirationInMinutes=TOKEN_MINUTES,
                allowedPorts=[{"port": self._port}],
            )
            self._headers, self._until_s = answer["authToken"], time.monotonic() + TOKEN_KEPT_S
        return self._headers
