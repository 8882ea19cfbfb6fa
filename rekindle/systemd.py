"""systemd: the units of a service, the sockets that it gives, and the words that it waits for.

Protocols: sd_listen_fds(3) and sd_notify(3). Nothing here needs systemd to be there.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from rekindle.config import Config, host_port
from rekindle.core.errors import Invalid

LOG = logging.getLogger(__name__)
FIRST_FD = 3  #: SD_LISTEN_FDS_START
SOCKETS = {"api": "listen", "artifacts": "artifacts.listen"}  #: FileDescriptorName, and the key of its address

_SOCKET = """\
[Unit]
Description=Rekindle: {what}

[Socket]
ListenStream={address}
FileDescriptorName={name}
Service=rekindle.service
Backlog=512

[Install]
WantedBy=sockets.target
"""

# KillMode=process: the relay and the microVMs outlive the service and are taken up by its next start.
_SERVICE = """\
[Unit]
Description=Rekindle: AWS Lambda MicroVMs on this machine
Requires={sockets}
After={sockets} network.target

[Service]
Type=notify
ExecStart={command}
Environment={tools_dir}
KillMode=process
Delegate=yes
Restart=on-failure
RestartSec=1
TimeoutStartSec=30min
TimeoutStopSec=60
LimitNOFILE=524288
TasksMax=infinity

[Install]
WantedBy={target}
"""


def units(config: Config, executable: Path, *, user: bool) -> dict[str, str]:
    """Name and text of each unit. `user`: for a user's own systemd.

    Raises Invalid for a port that is 0 (a socket unit needs one) and for a path that a unit cannot hold.
    """
    sockets = {
        "rekindle-api.socket": _socket("api", "the AWS API", config.listen),
        "rekindle-artifacts.socket": _socket("artifacts", "the artifact store", config.artifacts.listen),
    }
    service = _SERVICE.format(
        sockets=" ".join(sockets),
        command=f"{_program(executable)} --state {_word(config.state).replace('$', '$$')} serve",
        tools_dir=_word(f"REKINDLE_TOOLS_DIR={config.tools_dir}"),
        target="default.target" if user else "multi-user.target",
    )
    return {**sockets, "rekindle.service": service}


def folder_of_units(*, user: bool) -> Path:
    """Where systemd looks for units of this machine, or of this user (systemd.unit(5))."""
    if not user:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"


def _socket(name: str, what: str, address: str) -> str:
    if host_port(address)[1] == 0:
        raise Invalid(f"{SOCKETS[name]}: a socket unit needs a port, and it is 0; set one in rekindle.toml")
    return _SOCKET.format(what=what, address=address, name=name)


def _program(path: Path) -> str:
    """systemd takes no quote and no backslash in the path of a program, and its $ as it is (systemd.service(5))."""
    if set(str(path)) & set("\"'\\"):
        raise Invalid(f"{path} cannot be started by systemd: its path holds a quote or a backslash")
    return _word(path)


def _word(value: object) -> str:
    """One quoted word of a unit's line, its % taken as it is (systemd.unit(5))."""
    text = str(value)
    if any(character < " " for character in text):
        raise Invalid(f"{text!r} cannot stand in a systemd unit: it holds a control character")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def given_sockets() -> dict[str, socket.socket]:
    """The listening sockets that systemd gave this process, by name; the caller closes them.

    One that we do not know is closed and told. The variables are gone afterwards: no child takes them for its own.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{one}", "") for one in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    ours: dict[str, socket.socket] = {}
    named = names.split(":") + [""] * int(count)
    for descriptor, name in enumerate(named[: int(count)], start=FIRST_FD):
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
        if name in SOCKETS and name not in ours:
            ours[name] = sock
        else:
            LOG.warning("systemd gave a socket %r that nobody wants; known names: %s", name, ", ".join(SOCKETS))
            sock.close()
    return ours


def notify(state: str) -> None:
    """Tell the service manager, for example `READY=1`; nothing happens when nobody waits for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as telling:
        try:
            telling.sendto(state.encode(), address)
        except OSError as err:
            LOG.warning("the service manager cannot be told %s: %s", state, err.strerror)
