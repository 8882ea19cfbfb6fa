"""`rekindle init`: a state folder, and the systemd units of its service."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from rekindle.cli import output, session
from rekindle.core.errors import Invalid


def init(
    context: typer.Context,
    trust_builds: Annotated[
        bool, typer.Option("--trust-builds", help="Every Dockerfile is your own: build on this host.")
    ] = False,
    listen: Annotated[str | None, typer.Option(help="ADDRESS:PORT of the API.")] = None,
    artifacts: Annotated[str | None, typer.Option(help="ADDRESS:PORT of the artifact store.")] = None,
    quotas: Annotated[str | None, typer.Option(help="What an account may have: generous, or aws for AWS's.")] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Write systemd units too; a configuration that is there stays.")
    ] = False,
    units: Annotated[
        Path | None, typer.Option(help="Folder for the units [default: systemd's own, of the machine or of the user].")
    ] = None,
) -> None:
    """Make the state folder: configuration, CA, first access key, and the files that clients read.

    Refuses to overwrite a configuration.
    """
    here = session.of(context)
    if not (systemd and (here.layout.state / "rekindle.toml").exists()):
        _make_state(here, configuration(listen, artifacts, quotas, trust_builds=trust_builds))
    if systemd:
        _write_units(here, units)
    else:
        output.line(f"Start the service with: {here.command('serve')}")


def _make_state(here: session.Session, text: str) -> None:
    from rekindle import clients
    from rekindle.clock import wall_ms

    path = here.layout.state / "rekindle.toml"
    if path.exists():
        raise Invalid(f"{path} exists already; edit it, or use another folder: rekindle --state DIR init")
    here.layout.make()
    path.write_text(text)
    try:
        config = here.config()
    except Invalid:
        path.unlink()
        raise
    written = asyncio.run(clients.prepare(config, wall_ms))
    for file in (path, *written):
        output.line(f"Wrote {file}")
    if written:
        env, profile, credentials = (shlex.quote(str(file)) for file in written)
        output.line(f"Clients in a shell: . {env}")
        output.line(f"AWS profile rekindle: AWS_CONFIG_FILE={profile} AWS_SHARED_CREDENTIALS_FILE={credentials}")
    else:
        output.line("client.env and aws/ are written by the first start: a port is 0, so it is chosen then")


def _write_units(here: session.Session, folder: Path | None) -> None:
    """Units of this state folder; whole and only if none of them is there with another text."""
    from rekindle import systemd

    user = os.geteuid() != 0
    folder = folder or systemd.folder_of_units(user=user)
    texts = systemd.units(here.config(), _own_program(), user=user)
    for name, text in texts.items():
        if (folder / name).exists() and (folder / name).read_text() != text:
            raise Invalid(f"{folder / name} exists already with another text; remove it, or choose another --units DIR")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        output.line(f"Wrote {folder / name}")
    systemctl = "systemctl --user" if user else "systemctl"
    output.line(f"Start the service with: {systemctl} daemon-reload && {systemctl} enable --now {' '.join(texts)}")


def _own_program() -> Path:
    """The `rekindle` that runs now, or the one of this virtual environment when it was started otherwise."""
    started = Path(sys.argv[0])
    return (started if started.is_file() else Path(sys.executable).with_name("rekindle")).absolute()


def configuration(listen: str | None, artifacts: str | None, quotas: str | None, *, trust_builds: bool) -> str:
    """The text of a new rekindle.toml; what is not set stays at its default (docs/configuration.md)."""
    lines = ["# Every key and its default: docs/configuration.md"]
    if listen:
        lines.append(f'listen = "{listen}"')
    if trust_builds:
        lines += ["", "[build]", 'trust = "operator"  # a Dockerfile build shares this host\'s kernel']
    if artifacts:
        lines += ["", "[artifacts]", f'listen = "{artifacts}"']
    if quotas:
        lines += ["", "[quotas]", f'preset = "{quotas}"']
    return "\n".join(lines) + "\n"
