"""Dockerfile builds with the real builder: what goes in, what comes out, what a build may take, and what stays."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rekindle.core.errors import Invalid
from rekindle.image.build import remove_storage
from tests.image.building import Room
from tests.waiting import until

pytestmark = pytest.mark.slow

FEATURES = """\
# syntax=docker/dockerfile:1
ARG TAG=13
FROM rekindle/debian:${TAG} AS one
ARG WORD=hello
WORKDIR /made
COPY --link --chown=12:34 data/ /made/
RUN <<EOF
echo "$WORD" > word
{mknod}
chmod 4755 word
EOF
COPY <<INLINE /made/inline
COPY --link stays ${WORD}
INLINE
RUN --mount=type=cache,target=/cache echo once >> /cache/n && cp /cache/n /made/cached
RUN --mount=type=bind,source=data/a,target=/bound cp /bound /made/bound

FROM one AS unused
RUN false

FROM rekindle/debian:13
COPY --from=one /made /made
COPY . /context/
ENV A=1 B="two words"
SHELL ["/bin/bash", "-c"]
RUN [[ -n $BASH_VERSION ]] && useradd -u 77 joe
RUN rm -r /var/lib/dpkg && mkdir /var/lib/dpkg
USER joe
WORKDIR /home/of
RUN id -u > /tmp/uid && ln /tmp/uid /tmp/hard
EXPOSE 9000/tcp 53/udp 8080
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/run"]
CMD ["x", "y z"]
"""
FILES = {"data/a": "A", "data/b": "B", "secret.txt": "s", ".dockerignore": "secret*\nDockerfile\n"}


async def test_the_features_of_a_dockerfile(room: Room) -> None:
    as_root = os.geteuid() == 0  # no user namespace may make devices
    built = await room.build(FEATURES.replace("{mknod}", "mknod null c 1 3" if as_root else ": >null"), FILES)
    root = room.unpacked(built)
    assert built.config.argv == ("/bin/run", "x", "y z")
    assert (built.config.user, built.config.workdir, built.config.stop_signal) == ("joe", "/home/of", "SIGINT")
    assert built.config.exposed == (8080, 9000)
    assert {"A": "1", "B": "two words"}.items() <= built.config.env.items()
    assert not {"WORD", "TAG", "http_proxy"} & set(built.config.env)
    assert (root / "made/word").read_text() == "hello\n"
    assert (root / "made/word").stat().st_mode & 0o7777 == 0o4755
    assert (root / "made/null").is_char_device() == as_root
    assert list((root / "var/lib/dpkg").iterdir()) == []
    assert (root / "made/inline").read_text() == "COPY --link stays hello\n"
    assert (root / "made/bound").read_text() == "A"
    assert (root / "made/cached").read_text() == "once\n"
    assert room.owner(built, "/made/a") == ("12", "34")
    assert sorted(path.name for path in (root / "context").iterdir()) == [".dockerignore", "data"]
    assert (root / "tmp/uid").read_text() == "77\n"
    assert room.owner(built, "/tmp/uid")[0] == "77"
    assert room.owner(built, "/etc/passwd") == ("0", "0")
    assert (root / "tmp/uid").stat().st_nlink == 2
    assert built.image_bytes == built.root_disk.stat().st_size
    assert 0.5 < built.code_install_bytes / built.image_bytes < 1.5


async def test_the_same_again_comes_from_the_cache(room: Room) -> None:
    dockerfile = "FROM rekindle/debian:13\nCOPY f /f\nRUN cat /proc/sys/kernel/random/uuid > /id\nCMD echo $HOME\n"
    first = await room.build(dockerfile, {"f": "1"})
    second = await room.build(dockerfile, {"f": "1"})
    assert sum("Using cache" in line for line in room.lines) == 3
    third = await room.build(dockerfile, {"f": "2"})
    ids = [(room.unpacked(built) / "id").read_text() for built in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert first.config.argv == ("/bin/sh", "-c", "echo $HOME")


async def test_a_host_key_in_an_image_is_told(room: Room) -> None:
    dockerfile = "FROM rekindle/debian:13\nCOPY key key.pub /etc/ssh/\nRUN cd /etc/ssh && mv key ssh_host_ed25519_key\n"
    await room.build(dockerfile + "CMD sleep 9\n", {"key": "k", "key.pub": "p"})
    told = [line for line in room.lines if line.startswith("WARNING")]
    assert [line.split()[1] for line in told] == ["/etc/ssh/ssh_host_ed25519_key"]


async def test_builds_of_one_account_wait_for_each_other_and_share_cache_mounts(room: Room) -> None:
    step = "RUN --mount=type=cache,id=shared,target=/cache echo {} >> /cache/n && cp /cache/n /n"
    requests = [room.request(f"FROM rekindle/debian:13\n{step.format(n)}\n") for n in (1, 2)]
    built = await asyncio.gather(*(room.run(request) for request in requests))
    lines = sorted((room.unpacked(one) / "n").read_text().split() for one in built)
    assert lines in ([["1"], ["1", "2"]], [["2"], ["2", "1"]])


async def test_times_of_files_are_real(room: Room) -> None:
    built = await room.build("FROM rekindle/debian:13\nRUN touch -d 2001-02-03T04:05:06Z /old\n")
    assert (room.unpacked(built) / "old").stat().st_mtime == 981173106


async def test_it_can_be_cancelled_and_streams_its_log_until_then(room: Room) -> None:
    request = room.request("FROM rekindle/debian:13\nRUN echo out; echo err >&2; cat /proc/self/status; sleep 100\n")
    seen = asyncio.Event()

    def look(_: str) -> None:
        said = "\n".join(room.lines)  # the two streams of a step come in no order
        if "\nvoluntary_ctxt" in said and "err" in room.lines:
            seen.set()

    room.on_line = look
    async with asyncio.TaskGroup() as group:
        running = group.create_task(room.run(request))
        async with asyncio.timeout(60):
            await seen.wait()
        running.cancel()  # the fixture sees that nothing is left
    assert {"out", "err"} <= set(room.lines)
    assert not list(request.out.iterdir())
    capabilities = int(next(line for line in room.lines if line.startswith("CapEff")).split()[1], 16)
    net_admin, net_raw, sys_admin = 12, 13, 21
    assert not capabilities & (1 << net_admin | 1 << net_raw | 1 << sys_admin)


async def test_a_failing_step_is_named_with_its_status(room: Room) -> None:
    failed = await room.fails("FROM rekindle/debian:13\nENV A=1\nRUN echo no; exit 7\nRUN true\n")
    assert failed.code == "CONTAINER_BUILD_FAILED"
    assert failed.message == "STEP 3/4: RUN echo no; exit 7: exit status 7"
    assert "no" in room.lines


@pytest.mark.parametrize(
    ("dockerfile", "says"),
    [
        ("FROM rekindle/debian:13\nCOPY nothing /x\n", "STEP 2/2: COPY nothing /x: .*no such file"),
        ("FROM rekindle/debian:13\nFROB x\n", "(?i)unknown instruction.*FROB"),
        ("", 'no contents in "Dockerfile"'),
        ("FROM rekindle/debian:13\nCOPY --parents a b\n", "line 2: COPY --parents is not supported"),
        ("FROM 127.0.0.1:1/x:1\n", "STEP 1/1: FROM 127.0.0.1:1/x:1: .*connection refused"),
    ],
)
async def test_what_is_wrong_with_a_dockerfile(room: Room, dockerfile: str, says: str) -> None:
    failed = await room.fails(dockerfile)
    assert failed.code == "CONTAINER_BUILD_FAILED"
    assert re.search(says, failed.message), failed.message


async def test_time_is_bounded(room: Room) -> None:
    failed = await room.fails("FROM rekindle/debian:13\nRUN setsid sleep 1000 & sleep 1000\n", timeout_s=6)
    assert failed.code == "CONTAINER_BUILD_FAILED"
    assert failed.message == "STEP 2/2: RUN setsid sleep 1000 & sleep 1000: not done after 6 s"


async def test_memory_is_bounded(room: Room) -> None:
    failed = await room.fails("FROM rekindle/debian:13\nRUN perl -e '$x = \"a\" x (900 << 20)'\n", memory_mib=300)
    assert failed.message.endswith("exit status 137 (killed: the build's memory limit is 300 MiB)")


FORKS = (
    "RUN perl -e 'for (1..5000) { $p = fork; if (!defined $p) { print \"forks: $_\\n\"; exit 7 } sleep 1000 if !$p }'"
)


async def test_processes_are_bounded(room: Room) -> None:
    failed = await room.fails(f"FROM rekindle/debian:13\n{FORKS}\n", pids=200)
    assert failed.message.endswith("exit status 7")
    forks = int(next(line for line in room.lines if line.startswith("forks: ")).split()[1])
    assert 100 < forks < 200


async def test_storage_is_bounded(room: Room) -> None:
    step = "RUN for i in $(seq 200); do dd if=/dev/zero of=/f$i bs=1M count=20 2>/dev/null; sleep 0.2; done"
    failed = await room.fails(f"FROM rekindle/debian:13\n{step}\n", storage_mib=100)
    assert failed.code == "DISK_STORAGE_FULL"
    assert failed.message == f"STEP 2/2: {step}: more than 100 MiB of storage"


@pytest.mark.parametrize("build_id", ["", "../x", "a b"])
async def test_a_build_id_is_a_plain_name(room: Room, build_id: str) -> None:
    with pytest.raises(Invalid):
        await room.run(replace(room.request("FROM scratch\n"), build_id=build_id))


SERVICE = """
import asyncio, pickle, sys
from pathlib import Path
from rekindle.image.build import build
tools, base, request = pickle.loads(Path(sys.argv[1]).read_bytes())
asyncio.run(build(tools, base, request, lambda text: print(text, flush=True)))
"""


async def test_a_killed_service_leaves_no_process_and_its_files_go_with_the_next_build(room: Room) -> None:
    request = room.request("FROM rekindle/debian:13\nRUN echo here; setsid sleep 98761 & sleep 98761\n")
    spec = request.context.parent / "spec"
    spec.write_bytes(pickle.dumps((room.tools, room.base, request)))
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, str(spec), stdout=subprocess.PIPE)
    assert service.stdout is not None
    while await service.stdout.readline() != b"here\n":
        assert not service.stdout.at_eof()
    until(lambda: len(_running("sleep\0" + "98761")) == 2, 10, "both processes run")
    service.send_signal(signal.SIGKILL)
    await service.communicate()
    until(lambda: not _running("sleep\0" + "98761"), 10, "the build's processes are gone")
    assert (room.storage / "builds" / request.build_id).is_dir()
    built = await room.build("FROM rekindle/debian:13\nRUN echo well > /x\n")
    assert (room.unpacked(built) / "x").read_text() == "well\n"
    assert not list(Path("/sys/fs/cgroup").glob(f"**/rekindle-build-{request.build_id}"))


def _running(words: str) -> list[str]:
    """Processes of the machine, in whatever namespace, with these words in their command line."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and words in _command_line(pid)]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def test_removed_storage_is_gone_and_comes_back(room: Room) -> None:
    await remove_storage(room.storage)
    assert [path.name for path in room.storage.iterdir()] == ["lock"]
    await room.build("FROM rekindle/debian:13\n")


# --- this machine's settings, in RUN steps and nowhere else -----------------------------------------------------------

LENT = """\
FROM rekindle/debian:13
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt
RUN echo "lent: $no_proxy" && grep canary /etc/pip.conf \
 && pip install --break-system-packages --no-cache-dir six==1.17.0
CMD ["python3"]
"""


async def test_packages_install_and_nothing_of_this_machine_stays(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "canary-proxy.invalid")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "canary-pip.invalid")
    built = await room.build(LENT)
    assert "lent: canary-proxy.invalid" in room.lines
    assert "trusted-host = canary-pip.invalid" in room.lines
    root = room.unpacked(built)
    assert list(root.glob("usr/local/lib/python3*/dist-packages/six.py"))
    assert not any("canary" in f"{key}{value}" for key, value in built.config.env.items())
    for lent in ("etc/pip.conf", "etc/apt/apt.conf.d/99rekindle-build"):
        assert not (root / lent).exists() or (root / lent).read_bytes() == b""
    assert not (root / "run/rk").exists()
    assert _files_with(root, "canary-p") == _files_with(root, "/run/rk") == ""


def _files_with(root: Path, word: str) -> str:
    done = subprocess.run(["grep", "-rls", word, str(root)], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout
