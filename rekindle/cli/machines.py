"""MicroVMs: run, ps, inspect, suspend, resume, rm, logs, curl, token."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rekindle.api import logs as log_names
from rekindle.cli import output, session, stories
from rekindle.cli.session import CallFailed, Session
from rekindle.core.arn import managed_connector

#: Unlike the API (no policy, no idle suspension), the CLI's machines sleep after a quarter of an hour.
IDLE_S = 900
SUSPENDED_S = 28_800  # what AWS allows at most; the maximum duration of the microVM still counts
EXIT_HTTP_ERROR = 22  # as curl --fail has it

Machine = Annotated[str, typer.Argument(metavar="MICROVM", help="A microVM id; its unique beginning will do.")]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs.")]


def add_commands(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(ps)
    app.command()(inspect)
    app.command()(suspend)
    app.command()(resume)
    app.command()(rm)
    app.command()(logs)
    app.command()(curl)
    app.command()(token)


def run(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="Image name or ARN.")],
    version: Annotated[str | None, typer.Option(help="Image version [default: the newest active one].")] = None,
    idle: Annotated[
        int, typer.Option(help="Suspend after so many idle seconds; the next request wakes. 0: never, and no waking.")
    ] = IDLE_S,
    max_duration: Annotated[int | None, typer.Option(help="Terminate so many seconds after the start.")] = None,
    payload: Annotated[str | None, typer.Option(help="Text for the app's run hook.")] = None,
    no_egress: Annotated[bool, typer.Option("--no-egress", help="Without any way out to the network.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the microVM runs.")] = False,
    as_json: Json = False,
) -> None:
    """Start a microVM from an image."""
    here = session.of(context)
    request: dict[str, Any] = {"imageIdentifier": image_identifier(here, image)}
    if version is not None:
        request["imageVersion"] = version
    if idle:
        policy = {"maxIdleDurationSeconds": idle, "suspendedDurationSeconds": SUSPENDED_S, "autoResumeEnabled": True}
        request["idlePolicy"] = policy
    if max_duration is not None:
        request["maximumDurationInSeconds"] = max_duration
    if payload is not None:
        request["runHookPayload"] = payload
    if no_egress:
        request["egressNetworkConnectors"] = [managed_connector(here.config().region, "NO_EGRESS")]
    with here.aws() as aws:
        vm = aws.run_microvm(**request)
    if wait:
        vm["state"] = _settled(here, vm["microvmId"], "RUNNING")
    if as_json:
        output.answer(vm)
    else:
        output.facts({"microVM": vm["microvmId"], "state": vm["state"], "endpoint": f"https://{vm['endpoint']}"})


def ps(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Terminated ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the microVMs of this machine."""
    items = session.of(context).get("/v1/microvms", **({"all": "1"} if everything else {}))["items"]
    if as_json:
        output.document(items)
        return
    head = ("MICROVM", "IMAGE", "PHASE", "UP", "MEMORY", "ENDPOINT")
    output.table(head, (_row(vm) for vm in items))


def _row(vm: dict[str, Any]) -> tuple[object, ...]:
    memory = f"{vm['memory_mib']} MiB"
    if vm["memory"]:
        memory = f"{vm['memory']['private_kib'] / 1024:.0f} of {memory}"
    image = f"{vm['image']}:{vm['image_version']}"
    return vm["id"], image, vm["phase"], output.span(vm["uptime_s"]), memory, vm["endpoint"]


def inspect(context: typer.Context, microvm: Machine, as_json: Json = False) -> None:
    """Show everything about one microVM. Row, story, process, jail, snapshots, traffic."""
    here = session.of(context)
    vm = here.get(f"/v1/microvms/{machine_id(here, microvm)}")
    if as_json:
        output.document(vm)
        return
    output.facts(_summary(vm))
    if vm["process"]:
        output.line("\nJail")
        walls = vm["process"]["jail"]
        output.facts({f"  {wall['name']}": "yes" if wall["active"] else f"no: {wall['why_not']}" for wall in walls})
    stories.story(vm["events"])


def _summary(vm: dict[str, Any]) -> dict[str, object]:
    facts = {
        "microVM": vm["id"],
        "phase": vm["phase"],
        "reason": vm["state_reason"],
        "account": f"{vm['account']} {vm['region']}",
        "image": f"{vm['image_arn']} {vm['image_version']}",
        "endpoint": f"https://{vm['endpoint']}",
        "started": f"{output.instant(vm['started_at_ms'])} (up {output.span(vm['uptime_s'])})",
        "size": f"{vm['memory_mib']} MiB; the guest sees {vm['guest_memory_mib']} MiB and {vm['vcpus']} vCPU",
        "log group": vm["log_group"],
        "log stream": vm["log_stream"],
        "folder": f"{vm['home']} ({output.size(vm['disk_bytes'])}, {output.size(vm['reserved_bytes'])} set aside)",
        "snapshots": ", ".join(f"{one['name']} ({output.size(one['bytes'])})" for one in vm["snapshots"]),
    }
    return facts | _progress_facts(vm.get("progress")) | _process_facts(vm["process"]) | _traffic_facts(vm["relay"])


def _progress_facts(progress: dict[str, Any] | None) -> dict[str, object]:
    if progress is None:
        return {}
    return {progress["work"]: f"{output.size(progress['done_bytes'])} of {output.size(progress['of_bytes'])}"}


def _process_facts(process: dict[str, Any] | None) -> dict[str, object]:
    if process is None:
        return {"process": "none"}
    private, shared = (output.size(process["memory"][f"{kind}_kib"] * 1024) for kind in ("private", "shared"))
    words = f"pid {process['pid']}, {private} of its own and {shared} of files, {process['cpu_s']:.1f} s of CPU"
    return {"process": words}


def _traffic_facts(relay: dict[str, Any] | None) -> dict[str, object]:
    if relay is None:
        return {}
    bytes_in, bytes_out = (output.size(relay[name]) for name in ("bytes_in", "bytes_out"))
    last = output.instant(relay["last_byte_ms"] or None)
    return {"traffic": f"{bytes_in} in, {bytes_out} out, {relay['open']} open, last byte {last}"}


def suspend(
    context: typer.Context,
    microvms: Annotated[list[str], typer.Argument(metavar="MICROVM...", help="Microvm ids.")],
) -> None:
    """Freeze microVMs to disk. Returns when no process of them is left."""
    _each(context, microvms, "suspend_microvm", "SUSPENDED")


def resume(
    context: typer.Context,
    microvms: Annotated[list[str], typer.Argument(metavar="MICROVM...", help="Microvm ids.")],
) -> None:
    """Thaw suspended microVMs."""
    _each(context, microvms, "resume_microvm", "RUNNING")


def rm(
    context: typer.Context,
    microvms: Annotated[list[str], typer.Argument(metavar="MICROVM...", help="Microvm ids.")],
) -> None:
    """Terminate microVMs. Returns when nothing of them is left."""
    _each(context, microvms, "terminate_microvm", "TERMINATED")


def _each(context: typer.Context, microvms: list[str], operation: str, wanted: str) -> None:
    """Ask it of one microVM after the other, and wait for each."""
    here = session.of(context)
    for vm_id in (machine_id(here, name) for name in microvms):
        with stories.behind_failures(here, vm_id), here.aws() as aws:
            getattr(aws, operation)(microvmIdentifier=vm_id)
        output.line(f"{vm_id} {_settled(here, vm_id, wanted)}")


def _settled(here: Session, vm_id: str, wanted: str) -> str:
    """Wait until the microVM owes no work. Raises CallFailed when it then is not what was wanted."""
    with output.progress(f"Waiting for {vm_id} to be {wanted}"):
        vm = here.get(f"/v1/microvms/{vm_id}/settled")
    if vm["phase"] != wanted:
        reason = f": {vm['state_reason']}" if vm["state_reason"] else ""
        raise CallFailed(f"{vm_id} is {vm['phase']}, not {wanted}{reason}{stories.last_lines(here, vm_id)}")
    return wanted


def logs(
    context: typer.Context,
    microvm: Machine,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the microVM ends.")] = False,
) -> None:
    """Print the output of a microVM's app. The name of its log stream will do as well."""
    here = session.of(context)
    vm_id = machine_id(here, microvm)
    with stories.behind_failures(here, vm_id):
        output.copy(here.stream(f"/v1/microvms/{vm_id}/logs", **({"follow": "1"} if follow else {})))


def curl(
    context: typer.Context,
    microvm: Machine,
    path: Annotated[str, typer.Argument(help="Path and query at the app.")] = "/",
    method: Annotated[str | None, typer.Option("-X", "--request", help="HTTP method.")] = None,
    data: Annotated[
        str | None, typer.Option("-d", "--data", help="Body; @FILE reads a file, @- standard input.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="'Name: value'; repeatable.")] = None,
    port: Annotated[int, typer.Option(help="Port in the microVM.")] = 8080,
    include: Annotated[bool, typer.Option("-i", "--include", help="Print status and headers too.")] = False,
    fail: Annotated[bool, typer.Option("-f", "--fail", help="Exit with 22 when the status is 400 or more.")] = False,
) -> None:
    """Send one HTTPS request to a microVM. With a fresh token and the service's CA; a sleeping one wakes."""
    here = session.of(context)
    vm_id = machine_id(here, microvm)
    headers = dict(_header(text) for text in header or [])
    headers |= {"x-aws-proxy-auth": _mint(here, vm_id, [{"port": port}], minutes=5), "x-aws-proxy-port": str(port)}
    body = None if data is None else _body(data)
    method = method or ("GET" if body is None else "POST")
    with here.endpoint(vm_id) as http, _stream(http, method, "/" + path.lstrip("/"), body, headers) as response:
        if include:
            output.line(f"HTTP {response.status_code} {response.reason_phrase}")
            output.facts({f"{name}:": value for name, value in response.headers.items()})
        output.copy(response.iter_bytes())
    if response.status_code >= 400 and not include:
        ours = response.headers.get("x-aws-proxy-error")
        output.trouble(f"HTTP {response.status_code} {response.reason_phrase}" + _why(here, vm_id, ours))
    if response.status_code >= 400 and fail:
        raise typer.Exit(EXIT_HTTP_ERROR)


def _why(here: Session, vm_id: str, error: str | None) -> str:
    """Behind an answer of the endpoint itself: the app's own failures have nothing to do with the VM's story."""
    return "" if error is None else f" {error}{stories.last_lines(here, vm_id)}"


def _stream(http: Any, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
    return http.stream(method, path, content=body, headers=headers)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"'{text}' must be 'Name: value'")
    return name.strip().lower(), value.strip()


def _body(data: str) -> bytes:
    if data == "@-":
        return sys.stdin.buffer.read()
    return Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()


def token(
    context: typer.Context,
    microvm: Machine,
    port: Annotated[list[int] | None, typer.Option(help="A port that it opens; repeatable [default: 8080].")] = None,
    all_ports: Annotated[bool, typer.Option("--all-ports", help="Open every port.")] = False,
    minutes: Annotated[int, typer.Option(help="How long it is good for; 60 at most.")] = 60,
) -> None:
    """Print a token for a microVM's endpoint. It belongs into the header X-aws-proxy-auth."""
    here = session.of(context)
    ports: list[dict[str, Any]] = [{"allPorts": {}}] if all_ports else [{"port": number} for number in port or [8080]]
    output.line(_mint(here, machine_id(here, microvm), ports, minutes=minutes))


def _mint(here: Session, vm_id: str, ports: list[dict[str, Any]], *, minutes: int) -> str:
    with stories.behind_failures(here, vm_id), here.aws() as aws:
        answer = aws.create_microvm_auth_token(microvmIdentifier=vm_id, expirationInMinutes=minutes, allowedPorts=ports)
    return str(answer["authToken"]["X-aws-proxy-auth"])


def machine_id(here: Session, name: str) -> str:
    """The id that begins with `name` (with or without `microvm-`), or whose log stream has that name.

    Raises CallFailed when there is none, or several.
    """
    stream, name = name, log_names.microvm_id(name) or name
    wanted = name if name.startswith("microvm-") else f"microvm-{name}"
    if len(wanted) == len("microvm-") + 36:
        return wanted
    items = here.get("/v1/microvms", all="1")["items"]
    found = [vm["id"] for vm in items if vm["id"].startswith(wanted) or vm["log_stream"] == stream]
    if len(found) != 1:
        many = f"{len(found)} microVMs begin" if found else "No microVM begins"
        raise CallFailed(f"{many} with '{name}'; `rekindle ps --all` lists them")
    return str(found[0])


def image_identifier(here: Session, name: str) -> str:
    """An image's ARN from its name; an ARN stays what it is."""
    if name.startswith("arn:"):
        return name
    settings = here.config()
    return f"arn:aws:lambda:{settings.region}:{settings.account}:microvm-image:{name}"
