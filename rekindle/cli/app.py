"""The command line: global options, the commands in the order of `--help`, and how failures end.

Exit codes: 0 done; 1 it did not work (one sentence on stderr, and the last events of what it was about); 2 wrong usage;
3 no service runs on this state folder.
"""

# ruff: noqa: FBT001, FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rekindle import __version__, config
from rekindle.cli import accounts, events, host, images, machines, output
from rekindle.cli.session import NotRunning, Session
from rekindle.core.errors import RekindleError

app = typer.Typer(
    name="rekindle",
    help="AWS Lambda MicroVMs on machines you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # `main` says in one sentence what went wrong
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
host.add_service_commands(app)
app.add_typer(images.commands, name="image")
machines.add_commands(app)
app.command()(events.events)
app.add_typer(accounts.accounts, name="account")
app.add_typer(accounts.keys, name="key")
app.add_typer(host.tools, name="tools")
host.add_machine_commands(app)


def _version(wanted: bool) -> None:
    if wanted:
        output.line(f"rekindle {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    state: Annotated[
        Path | None,
        typer.Option(help="State folder [env: REKINDLE_STATE; default: ~/.local/share/rekindle].", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file [default: <state>/rekindle.toml].", show_default=False),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    context.obj = Session(lambda listen: config.load(state=state, file=file, listen=listen))


def main() -> None:
    try:
        app()
    except NotRunning as error:
        output.trouble(error.message)
        sys.exit(3)
    except RekindleError as error:
        output.trouble(error.message)
        sys.exit(1)
    except BrokenPipeError:  # `rekindle logs | head`
        sys.stderr.close()
        sys.exit(1)
