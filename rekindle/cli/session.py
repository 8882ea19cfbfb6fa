"""One invocation: its configuration, the operator socket, and the AWS clients that `client.env` describes."""

from __future__ import annotations

import os
import shlex
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import typer

from rekindle import unixsock
from rekindle.config import Config
from rekindle.core.errors import RekindleError
from rekindle.node.layout import Layout

CONNECT_S = 5.0


class NotRunning(RekindleError):
    """No service answers on this state folder."""


class CallFailed(RekindleError):
    """The service or AWS API answered with an error; the message is theirs."""


class Session:
    """Made by the global options; nothing is read or opened before a command asks for it."""

    def __init__(self, load: Callable[[str | None], Config]) -> None:
        self._load = load

    def config(self, listen: str | None = None) -> Config:
        return self._load(listen)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.config().state)

    # -- the operator API ----------------------------------------------------------------------------------------------

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Raises NotRunning, or CallFailed with the service's own sentence."""
        return self._call("GET", path, query)

    def post(self, path: str, **query: str) -> dict[str, Any]:
        return self._call("POST", path, query)

    def send(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """POST with a JSON body; members that are None are left out."""
        given = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", path, {}, given)

    def delete(self, path: str) -> dict[str, Any]:
        return self._call("DELETE", path, {})

    def stream(self, path: str, **query: str) -> Iterator[bytes]:
        """The answer's bytes as they come."""
        with self._operator() as http, http.stream("GET", path, params=query) as response:
            if response.status_code >= 400:
                response.read()
            yield from _checked(response).iter_bytes()

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        with self._operator() as http:
            response = http.request(method, path, params=dict(query), json=None if body is None else dict(body))
            answer: dict[str, Any] = _checked(response).json()
            return answer

    @contextmanager
    def _operator(self) -> Iterator[httpx.Client]:
        """A client on the operator socket, by way of an open folder: its path may be longer than `sun_path`."""
        try:
            unixsock.connect(self.layout.operator_socket).close()
        except OSError as error:
            raise self._not_running() from error
        folder = os.open(self.layout.run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            transport = httpx.HTTPTransport(uds=f"/proc/self/fd/{folder}/{self.layout.operator_socket.name}")
            timeout = httpx.Timeout(None, connect=CONNECT_S)  # builds and ends of VMs take what they take
            with httpx.Client(transport=transport, base_url="http://operator", timeout=timeout) as http:
                yield http
        except httpx.TransportError as error:
            raise CallFailed("The service ended in the middle of its answer") from error
        finally:
            os.close(folder)

    def _not_running(self) -> NotRunning:
        state = self.layout.state
        return NotRunning(f"No Rekindle service runs on {state}; start one with: {self.command('serve')}")

    def command(self, words: str) -> str:
        """A command line that works from any folder, to show to people."""
        return f"rekindle --state {shlex.quote(str(self.layout.state))} {words}"

    # -- AWS -----------------------------------------------------------------------------------------------------------

    @cached_property
    def environment(self) -> dict[str, str]:
        """What `client.env` sets. Raises NotRunning when no service has written it yet."""
        path = self.layout.state / "client.env"
        try:
            return read_exports(path.read_text())
        except FileNotFoundError as error:
            raise self._not_running() from error

    @cached_property
    def microvms(self) -> Any:
        return self._client("lambda-microvms")

    @cached_property
    def s3(self) -> Any:
        return self._client("s3")

    def _client(self, service: str) -> Any:
        import boto3  # 170 ms: only for commands that need it
        from botocore.config import Config as ClientConfig

        env = self.environment
        return boto3.Session().client(
            service,
            endpoint_url=env["AWS_ENDPOINT_URL_" + service.upper().replace("-", "_")],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_REGION"],
            verify=env.get("AWS_CA_BUNDLE"),
            config=ClientConfig(proxies={}, s3={"addressing_style": "path"}),  # the service is on this machine
        )

    @contextmanager
    def aws(self) -> Iterator[Any]:
        """The microVM client. Within the block AWS's errors are ours: NotRunning, or CallFailed with AWS's message."""
        from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

        try:
            yield self.microvms
        except EndpointConnectionError as error:
            raise self._not_running() from error
        except ClientError as error:
            raise CallFailed(error.response["Error"].get("Message") or error.response["Error"]["Code"]) from error
        except BotoCoreError as error:
            raise CallFailed(str(error)) from error

    def endpoint(self, vm_id: str) -> httpx.Client:
        """A client for a microVM's own endpoint that trusts the service's CA and nothing else."""
        with self.aws() as aws:
            authority = aws.get_microvm(microvmIdentifier=vm_id)["endpoint"]
        trust = ssl.create_default_context(cafile=self.environment["REKINDLE_CA"])
        timeout = httpx.Timeout(None, connect=CONNECT_S)  # a sleeping VM may have to wake first
        return httpx.Client(base_url=f"https://{authority}", verify=trust, timeout=timeout, trust_env=False)


def of(context: typer.Context) -> Session:
    session: Session = context.find_root().obj
    return session


def read_exports(text: str) -> dict[str, str]:
    """The `export NAME=value` lines of a shell file that we wrote; the rest of it is for shells."""
    exports = (line.removeprefix("export ") for line in text.splitlines() if line.startswith("export "))
    pairs = (shlex.split(line)[0].partition("=") for line in exports)
    return {name: value for name, _, value in pairs}


def _checked(response: httpx.Response) -> httpx.Response:
    if response.status_code >= 400:
        raise CallFailed(_sentence(response))
    return response


def _sentence(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"The service answered {response.status_code}: {response.text[:200]}"


def existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise typer.BadParameter(f"{path} is not a folder")
    return path
