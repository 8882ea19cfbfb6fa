"""Every command as a process against a service whose rows a test moves: what it prints, asks for, and exits with."""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle import config
from rekindle.cli.images import BUCKET
from rekindle.clock import wall_ms
from rekindle.core.image import Version
from rekindle.core.lifecycle import Ask, Fact
from rekindle.core.microvm import Event, MicroVM
from rekindle.driver import reserve
from rekindle.driver.process import started_ticks
from rekindle.store.microvms import Changes
from tests.cli.ground import Ground
from tests.store.rows import HandClock, arn, built_image, updated_image, vm_row
from tests.waiting import until_async

STEP = b"STEP 1/2: FROM rekindle/debian:13\n"


async def start(here: Ground, ports: range = range(20000, 20010)) -> MicroVM:
    vm = vm_row(HandClock(wall_ms()))
    return await here.store.run_microvm(vm, ports, client_token=None, token_digest="")


async def running(here: Ground, ports: range = range(20000, 20010)) -> MicroVM:
    """A microVM whose VMM is this very test process."""
    vm = await start(here, ports)
    handle = {"pid": os.getpid(), "started_ticks": started_ticks(os.getpid())}
    return await here.store.report(vm, Fact.STARTED, handle=handle)


# -- ps, inspect -------------------------------------------------------------------------------------------------------


async def test_ps_shows_live_ones_and_with_all_the_terminated_too(here: Ground) -> None:
    await built_image(here.store)
    live, over = await running(here), await start(here)
    await here.store.ask(over.id, Ask.TERMINATE)
    over = await here.store.report(await here.store.microvm(over.id) or over, Fact.STOPPED)
    short, every = await here.cli("ps", "--json"), await here.cli("ps", "--all", "--json")
    assert [vm["id"] for vm in short.json] == [live.id]
    assert {vm["id"]: vm["phase"] for vm in every.json} == {live.id: "RUNNING", over.id: "TERMINATED"}
    assert short.json[0]["memory"]["private_kib"] > 1000
    table = (await here.cli("ps")).out.splitlines()
    assert table[0].split() == ["MICROVM", "IMAGE", "PHASE", "UP", "MEMORY", "ENDPOINT"]
    assert table[1].split()[:3] == [live.id, "demo:1.0", "RUNNING"]


async def test_ps_works_while_the_relay_is_away(here: Ground) -> None:
    await built_image(here.store)
    await running(here)
    here.operating.counters = None
    done = await here.cli("ps", "--json")
    assert (done.code, [vm["last_byte_ms"] for vm in done.json]) == (0, [None])


async def test_inspect_has_row_story_process_jail_snapshots_and_traffic(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    snapshot = here.layout.sleep(vm.id, 7)
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text("{}")
    traffic = {"bytes_in": 10, "bytes_out": 2048, "open": 1, "last_byte_ms": 1000}
    here.operating.counters = {vm.id: traffic}
    found = (await here.cli("inspect", vm.id[:16], "--json")).json
    assert found["handle"]["pid"] == found["process"]["pid"] == os.getpid()
    assert found["home"] == str(here.layout.home(vm.id))
    assert found["snapshots"] == [{"name": "7", "bytes": found["disk_bytes"], "whole": True}]
    assert [event["what"] for event in found["events"]] == ["PENDING", "PENDING -> RUNNING"]
    assert found["relay"] == traffic
    assert (found["memory_mib"], found["guest_memory_mib"], found["vcpus"]) == (512, 1024, 1)
    assert (found["log_group"], found["log_stream"]) == (None, None)  # `logging` says disabled
    text = (await here.cli("inspect", vm.id)).out
    walls = dict(line.strip().split("  ", 1) for line in text.splitlines() if " namespace  " in line)
    assert walls["own net namespace"].strip() == "no: it is the service's"
    assert "10 B in, 2.0 KiB out, 1 open, last byte 1970-01-01 00:00:01" in text
    assert "512 MiB; the guest sees 1024 MiB and 1 vCPU" in text


async def test_inspect_shows_how_far_a_long_work_is(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    home = here.layout.home(vm.id)
    home.mkdir()
    reserve.make(home, 1 << 20)
    with here.board.showing(vm.id, "saving memory") as progress:
        progress.of_bytes, progress.done_bytes = 4 << 30, 1 << 30
        found = (await here.cli("inspect", vm.id, "--json")).json
        assert found["progress"] == {"work": "saving memory", "done_bytes": 1 << 30, "of_bytes": 4 << 30}
        assert "1.0 GiB of 4.0 GiB" in (await here.cli("inspect", vm.id)).out
    found = (await here.cli("inspect", vm.id, "--json")).json
    assert found["progress"] is None
    assert found["disk_bytes"] == 0
    assert found["reserved_bytes"] >= reserve.delta_bytes(1 << 20) + reserve.SLACK_BYTES


async def test_inspect_of_a_machine_whose_pid_was_taken_by_another_process_shows_none(here: Ground) -> None:
    await built_image(here.store)
    vm = await here.store.report(await start(here), Fact.STARTED, handle={"pid": os.getpid(), "started_ticks": 1})
    assert (await here.cli("inspect", vm.id, "--json")).json["process"] is None


async def test_a_name_that_no_machine_or_more_than_one_has_is_refused(here: Ground) -> None:
    await built_image(here.store)
    await running(here)
    await running(here)
    both, none = await here.cli("inspect", "microvm-"), await here.cli("logs", "microvm-zzz")
    assert (both.code, none.code) == (1, 1)
    assert "2 microVMs begin with 'microvm-'" in both.err
    assert "No microVM begins with 'microvm-zzz'" in none.err


# -- run, suspend, resume, rm ------------------------------------------------------------------------------------------


async def test_run_takes_a_name_and_passes_every_option_on(here: Ground) -> None:
    await built_image(here.store)
    options = ["--idle", "60", "--max-duration", "3600", "--payload", "hi", "--no-egress"]
    done = await here.cli("run", "demo", *options, "--json")
    assert done.code == 0, done.err
    vm = await here.store.microvm(done.json["microvmId"])
    assert vm is not None
    assert (vm.image_arn, vm.max_duration_s, vm.run_hook_payload) == (arn("demo"), 3600, "hi")
    assert vm.idle is not None
    assert (vm.idle.max_idle_s, vm.idle.auto_resume) == (60, True)
    assert [name.rpartition(":")[2] for name in vm.egress] == ["NO_EGRESS"]


async def test_run_wait_returns_when_it_runs_and_fails_when_it_never_does(here: Ground) -> None:
    await built_image(here.store)
    async with asyncio.TaskGroup() as own:
        waiting = own.create_task(here.cli("run", "demo", "--wait"))
        await here.store.report(await _first(here), Fact.STARTED)
    assert "RUNNING" in waiting.result().out
    await here.store.ask((await _first(here)).id, Ask.TERMINATE)
    await here.store.report(await _first(here), Fact.STOPPED)
    async with asyncio.TaskGroup() as own:
        waiting = own.create_task(here.cli("run", "demo", "--wait"))
        await here.store.report(await _first(here), Fact.LOST)
        await here.store.report(await _first(here), Fact.STOPPED)
    assert waiting.result().code == 1
    assert "is TERMINATED, not RUNNING: Internal service error.\n" in waiting.result().err
    last = waiting.result().err.splitlines()[-3:]
    assert ["PENDING (by " in last[0], last[1].partition("  P")[2], last[2].partition("  T")[2]] == [
        True,
        "ENDING -> TERMINATING (by service): Internal service error.",
        "ERMINATING -> TERMINATED (by service): Internal service error.",
    ]


async def _first(here: Ground) -> MicroVM:
    async def live() -> MicroVM | None:
        return next(iter(await here.store.all_microvms("local")), None)

    vm = await until_async(live, 10, "the row is there")
    assert vm is not None
    return vm


async def test_run_of_an_unknown_image_says_so(here: Ground) -> None:
    done = await here.cli("run", "nothing")
    assert done.code == 1
    assert arn("nothing") in done.err


async def test_suspend_resume_and_rm_return_when_it_is_done(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    for command, phase, fact in (
        ("suspend", "SUSPENDING", Fact.SUSPENDED),
        ("resume", "RESUMING", Fact.RESUMED),
        ("rm", "TERMINATING", Fact.STOPPED),
    ):
        async with asyncio.TaskGroup() as own:
            waiting = own.create_task(here.cli(command, vm.id))
            asked = await _in_phase(here, vm.id, phase)
            assert not waiting.done()
            changes: Changes = {"snapshot": 1} if fact is Fact.SUSPENDED else {}
            after = await here.store.report(asked, fact, **changes)
        assert waiting.result().out.splitlines() == [f"{vm.id} {after.phase.value}"]


async def _in_phase(here: Ground, vm_id: str, phase: str) -> MicroVM:
    async def there() -> MicroVM | None:
        vm = await here.store.microvm(vm_id)
        return vm if vm is not None and vm.phase.value == phase else None

    vm = await until_async(there, 10, f"it is {phase}")
    assert vm is not None
    return vm


async def test_a_suspend_that_fails_is_an_error(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    async with asyncio.TaskGroup() as own:
        waiting = own.create_task(here.cli("suspend", vm.id))
        await here.store.report(await _in_phase(here, vm.id, "SUSPENDING"), Fact.SUSPEND_FAILED)
    assert waiting.result().code == 1
    assert "is RUNNING, not SUSPENDED" in waiting.result().err
    assert "SUSPENDING -> RUNNING (by service): suspend failed" in waiting.result().err


# -- logs, curl, token -------------------------------------------------------------------------------------------------


async def test_logs_follow_until_the_machine_is_over(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    here.operating.output = b"first\n"
    assert (await here.cli("logs", vm.id)).out == "first\n"
    async with asyncio.TaskGroup() as own:
        following = own.create_task(here.cli("logs", "--follow", vm.id))
        here.operating.output += b"second\n"
        await here.store.ask(vm.id, Ask.TERMINATE)
        here.operating.output += b"last\n"
        await here.store.report(await _in_phase(here, vm.id, "TERMINATING"), Fact.STOPPED)
    assert following.result().out == "first\nsecond\nlast\n"


async def test_logs_take_the_name_of_a_stream(here: Ground) -> None:
    await built_image(here.store)
    named = replace(vm_row(HandClock(wall_ms())), logging={"cloudWatch": {"logStream": "run/7"}})
    default = replace(vm_row(HandClock(wall_ms())), logging=None)
    for vm in (named, default):
        await here.store.run_microvm(vm, range(20000, 20010), client_token=None, token_digest="")
    found = (await here.cli("inspect", default.id, "--json")).json
    assert found["log_group"] == "/aws/lambda-microvms/demo"
    assert found["log_stream"].endswith(f"[1.0]{default.id}")
    here.operating.output = b"words\n"
    for stream in (found["log_stream"], "run/7"):
        done = await here.cli("logs", stream)
        assert (done.code, done.out) == (0, "words\n"), done.err
    assert (await here.cli("logs", "run/8")).code == 1


@asynccontextmanager
async def endpoint(here: Ground) -> AsyncIterator[int]:
    """A TLS server with the service's certificate that answers with the request that it read."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        body = (await reader.readexactly(int(fields.get("content-length", "0")))).decode()
        said = json.dumps({"line": head.splitlines()[0], "headers": fields, "body": body}).encode()
        status = b"404 Not Found" if "/missing" in head else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(said), said))
        await writer.drain()
        writer.close()

    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trust.load_cert_chain(here.who.server_pem, here.who.server_key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=trust)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_curl_mints_a_token_and_trusts_only_the_services_ca(here: Ground, tmp_path: Path) -> None:
    await built_image(here.store)
    (tmp_path / "body").write_text("from a file")
    async with endpoint(here) as port:
        vm = await running(here, range(port, port + 1))
        plain = (await here.cli("curl", vm.id, "state?x=1")).json
        posted = (
            await here.cli("curl", vm.id, "/run", "-d", f"@{tmp_path}/body", "-H", "X-Mine: 1", "--port", "81")
        ).json
        piped = (await here.cli("curl", vm.id, "/run", "-X", "PUT", "-d", "@-", stdin=b"piped")).json
        headed = await here.cli("curl", vm.id, "-i")
        missing, failing = (
            await here.cli("curl", vm.id, "/missing"),
            await here.cli("curl", vm.id, "/missing", "--fail"),
        )
    assert plain["line"] == "GET /state?x=1 HTTP/1.1"
    assert plain["headers"]["x-aws-proxy-port"] == "8080"
    assert plain["headers"]["x-aws-proxy-auth"].count(".") == 4
    assert (posted["line"], posted["body"]) == ("POST /run HTTP/1.1", "from a file")
    assert (posted["headers"]["x-mine"], posted["headers"]["x-aws-proxy-port"]) == ("1", "81")
    assert (piped["line"], piped["body"]) == ("PUT /run HTTP/1.1", "piped")
    assert headed.out.startswith("HTTP 200 OK\n")
    assert (missing.code, failing.code) == (0, 22)
    assert missing.err == "error: HTTP 404 Not Found\n"


async def test_token_prints_the_token_alone(here: Ground) -> None:
    await built_image(here.store)
    vm = await running(here)
    for words in ([], ["--port", "80", "--port", "81"], ["--all-ports", "--minutes", "1"]):
        done = await here.cli("token", vm.id, *words)
        assert done.code == 0, done.err
        assert done.out.strip().count(".") == 4
    too_long = await here.cli("token", vm.id, "--minutes", "999")
    assert too_long.code == 1
    assert "exceeded max allowed of 60" in too_long.err


# -- images ------------------------------------------------------------------------------------------------------------


def dockerfile(tmp_path: Path, name: str = "app") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM rekindle/debian:13\n")
    return folder


async def test_image_build_uploads_creates_follows_and_ends_with_the_build(here: Ground, tmp_path: Path) -> None:
    folder = dockerfile(tmp_path)
    options = ["--memory", "256", "--hook", "all=20", "--hook-port", "8080", "--env", "A=b=c"]
    async with asyncio.TaskGroup() as own:
        building = own.create_task(here.cli("image", "build", str(folder), *options))
        version = await _building(here)
        with _log_of(here, await _build_id(here, version)) as log:
            log.write(STEP)
            await here.store.built(
                version, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1
            )
    done = building.result()
    assert done.code == 0, done.err
    assert STEP.decode() in done.out
    assert f"{arn('app')} is CREATED" in done.out
    assert (version.memory_mib, dict(version.environment)) == (256, {"A": "b=c"})
    assert version.hooks is not None
    assert version.hooks.port == 8080
    assert {(hook.name, hook.timeout_s) for hook in version.hooks.enabled} == {
        (name, 20) for name in ("ready", "validate", "run", "resume", "suspend", "terminate")
    }
    assert version.artifact_uri.startswith(f"s3://{BUCKET}/app/")
    assert _stored_zip(here).namelist() == ["Dockerfile"]


def _stored_zip(here: Ground) -> zipfile.ZipFile:
    blob = next(path for path in (here.config.state / "artifacts/blobs").rglob("*") if path.is_file())
    return zipfile.ZipFile(io.BytesIO(blob.read_bytes()))


async def _building(here: Ground) -> Version:
    """Take the build as the node would."""

    async def owed() -> Version | None:
        return next(iter(await here.store.versions_owing()), None)

    version = await until_async(owed, 15, "an image is asked for")
    assert version is not None
    return await here.store.building(version)


async def _build_id(here: Ground, version: Version) -> str:
    return (await here.store.builds(version.image_arn, version.version))[0].id


def _log_of(here: Ground, build_id: str) -> io.FileIO:
    return io.FileIO(here.layout.build_log(build_id), "w")


async def test_image_build_ends_with_the_reason_of_a_failed_build(here: Ground, tmp_path: Path) -> None:
    folder = dockerfile(tmp_path)
    async with asyncio.TaskGroup() as own:
        building = own.create_task(here.cli("image", "build", str(folder), "--name", "other"))
        await here.store.build_failed(await _building(here), reason="CONTAINER_BUILD_FAILED: step 2")
    assert building.result().code == 1
    assert "other is CREATE_FAILED: CONTAINER_BUILD_FAILED: step 2" in building.result().err


async def test_image_build_refuses_what_cannot_be_built_before_it_uploads(here: Ground, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, code, message in (
        ([str(tmp_path / "empty")], 1, "has no Dockerfile"),
        ([str(tmp_path / "nowhere")], 2, "is not a folder"),
        ([str(dockerfile(tmp_path)), "--hook", "sleep"], 2, "must be ready, validate"),
        ([str(tmp_path / "app"), "--env", "A"], 2, "must be NAME=VALUE"),
    ):
        done = await here.cli("image", "build", *words)
        assert done.code == code
        assert message in " ".join(done.err.split())
    assert await here.store.versions_owing() == []


async def test_image_logs_follow_a_build_that_has_not_begun(here: Ground, tmp_path: Path) -> None:
    folder = dockerfile(tmp_path)
    async with asyncio.TaskGroup() as own:
        building = own.create_task(here.cli("image", "build", str(folder), "--json"))
        version = await _building(here)
        following = own.create_task(here.cli("image", "logs", "app", "--follow"))
        with _log_of(here, await _build_id(here, version)) as log:
            log.write(STEP)
        await here.store.build_failed(version, reason="X")
    assert following.result().out == STEP.decode()
    assert building.result().code == 1
    assert (await here.cli("image", "logs", "app")).out == STEP.decode()
    assert "There is no version 9.0" in (await here.cli("image", "logs", "app", "--version", "9.0")).err


async def test_image_ls_and_rm(here: Ground) -> None:
    await built_image(here.store)
    items = (await here.cli("image", "ls", "--json")).json
    assert [(item["name"], item["state"]) for item in items] == [("demo", "CREATED")]
    assert (await here.cli("image", "ls")).out.splitlines()[1].split()[:3] == ["demo", "CREATED", "1.0"]
    vm = await running(here)
    held = await here.cli("image", "rm", "demo")
    assert (held.code, "running microvms" in held.err) == (1, True)
    await here.store.ask(vm.id, Ask.TERMINATE)
    await here.store.report(await _in_phase(here, vm.id, "TERMINATING"), Fact.STOPPED)
    assert (await here.cli("image", "rm", "demo")).out == f"{arn('demo')} removed\n"
    assert (await here.cli("image", "rm", "demo")).code == 1


async def test_image_build_of_a_name_that_is_there_makes_its_next_version(here: Ground, tmp_path: Path) -> None:
    await built_image(here.store, "app")
    folder = dockerfile(tmp_path)
    async with asyncio.TaskGroup() as own:
        building = own.create_task(here.cli("image", "build", str(folder), "--memory", "256"))
        version = await _building(here)
        with _log_of(here, await _build_id(here, version)) as log:
            log.write(STEP)
        await here.store.built(
            version, folder="f", memory_snapshot_bytes=1, disk_snapshot_bytes=1, code_install_bytes=1
        )
    done = building.result()
    assert (version.version, version.memory_mib, done.code) == ("2.0", 256, 0), done.err
    assert STEP.decode() in done.out
    assert f"{arn('app')} is UPDATED: version 2.0; start one with: " in done.out


async def test_image_build_of_a_version_that_fails_says_why_and_keeps_the_old_one(here: Ground, tmp_path: Path) -> None:
    await built_image(here.store, "app")
    async with asyncio.TaskGroup() as own:
        building = own.create_task(here.cli("image", "build", str(dockerfile(tmp_path))))
        await here.store.build_failed(await _building(here), reason="CONTAINER_BUILD_FAILED: step 2")
    assert building.result().code == 1
    assert "app is UPDATE_FAILED: CONTAINER_BUILD_FAILED: step 2" in building.result().err
    row = (await here.cli("image", "ls")).out.splitlines()[1].split()
    assert row[:4] == ["app", "UPDATE_FAILED", "1.0", "2.0"]


async def test_image_versions_are_listed_switched_and_removed(here: Ground) -> None:
    await built_image(here.store)
    await updated_image(here.store)
    rows = [line.split() for line in (await here.cli("image", "versions", "demo")).out.splitlines()]
    assert rows[0][:4] == ["VERSION", "STATE", "STATUS", "MEMORY"]
    assert [row[:2] for row in rows[1:]] == [["2.0", "SUCCESSFUL"], ["1.0", "SUCCESSFUL"]]
    off = await here.cli("image", "deactivate", "demo", "2.0")
    assert off.out == f"{arn('demo')} version 2.0 is INACTIVE\n"
    items = (await here.cli("image", "versions", arn("demo"), "--json")).json
    assert [(item["imageVersion"], item["status"]) for item in items] == [("2.0", "INACTIVE"), ("1.0", "ACTIVE")]
    assert (await here.cli("image", "activate", "demo", "2.0")).code == 0
    assert [one.status.value for one in await here.store.versions(arn("demo"), after=None, limit=9)] == ["ACTIVE"] * 2
    unknown = await here.cli("image", "activate", "demo", "9.0")
    assert (unknown.code, "Version: 9.0" in unknown.err) == (1, True)
    assert (await here.cli("image", "rm", "a", "b", "--version", "1.0")).code == 2
    gone = await here.cli("image", "rm", "demo", "--version", "2.0")
    assert gone.out == f"{arn('demo')} version 2.0 removed\n"
    last = await here.cli("image", "rm", "demo", "--version", "1.0")
    assert (last.code, "only version" in last.err) == (1, True)
    assert [one.version for one in await here.store.versions(arn("demo"), after=None, limit=9)] == ["1.0"]


# -- the service and the machine ---------------------------------------------------------------------------------------


async def test_down_returns_when_the_service_process_is_gone(here: Ground) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    here.operating.pid = process.pid
    done = await here.cli("down")
    assert done.out == "Terminated 0 microVMs; the service has stopped\n"
    assert await process.wait() == -15


async def test_ca_prints_the_path_or_the_certificate(here: Ground) -> None:
    assert (await here.cli("ca")).out == f"{here.who.ca_pem}\n"
    assert (await here.cli("ca", "--pem")).out == here.who.ca_pem.read_text()


async def test_image_inspect_has_versions_builds_logs_and_story(here: Ground) -> None:
    version = await built_image(here.store)
    await updated_image(here.store)
    await here.store.add_event(Event(subject=version.image_arn, at_ms=5, what="note", why="nothing is assumed"))
    found = (await here.cli("image", "inspect", "demo", "--json")).json
    assert (found["arn"], found["latest_active_version"]) == (version.image_arn, "2.0")
    assert [one["version"] for one in found["versions"]] == ["2.0", "1.0"]
    (build,) = found["versions"][1]["builds"]
    assert build["log_group"] == "/aws/lambda-microvms/demo"
    assert build["log_stream"] == f"1970/01/01[0.0]microvm-{build['id']}"
    assert build["log"] == str(here.layout.build_log(build["id"]))
    assert found["events"][-1]["why"] == "nothing is assumed"
    text = (await here.cli("image", "inspect", version.image_arn)).out
    for words in ("/aws/lambda-microvms/demo", build["log_stream"], "nothing is assumed", "team=blue", "SUCCESSFUL"):
        assert words in text
    missing = await here.cli("image", "inspect", "nobody")
    assert (missing.code, "There is no image" in missing.err) == (1, True)


async def test_init_writes_a_configuration_once(here: Ground) -> None:
    words = ["init", "--trust-builds", "--listen", "127.0.0.1:9", "--artifacts", "127.0.0.1:10", "--quotas", "aws"]
    done = await here.cli(*words)
    assert f"rekindle --state {here.config.state} serve" in done.out
    made = config.load(state=here.config.state, env={})
    assert (made.listen, made.build.trust, made.artifacts.listen) == ("127.0.0.1:9", "operator", "127.0.0.1:10")
    assert made.quotas == config.Quotas(**config.AWS_QUOTAS)
    again = await here.cli(*words)
    assert (again.code, "exists already" in again.err) == (1, True)


async def test_a_configuration_with_an_unknown_key_names_it(here: Ground) -> None:
    (here.config.state / "rekindle.toml").write_text("[build]\ntrusted = 1\n")
    done = await here.cli("ps")
    assert (done.code, "'build.trusted'" in done.err) == (1, True)


@pytest.mark.parametrize("words", [["nonsense"], ["run"], ["ps", "--nonsense"]])
async def test_wrong_usage_exits_with_2(here: Ground, words: list[str]) -> None:
    assert (await here.cli(*words)).code == 2


async def test_without_a_service_the_exit_code_is_3(here: Ground, tmp_path: Path) -> None:
    done = await here.cli("--state", str(tmp_path / "other"), "ps")
    assert done.code == 3
    assert f"start one with: rekindle --state {tmp_path}/other serve" in done.err
