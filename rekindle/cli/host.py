"""The service and the machine it runs on: serve, down, ca, doctor, tools."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import asyncio
import json
import os
import select
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import output, session
from rekindle.cli.init import init
from rekindle.cli.machines import Json
from rekindle.cli.session import CallFailed
from rekindle.core.errors import RekindleError

if TYPE_CHECKING:  # the commands import what they need: `rekindle ps` must not wait for everything
    from rekindle.config import Config
    from rekindle.image.toolbox import Toolbox
    from rekindle.strays import Stray

STOP_S = 60.0

tools = typer.Typer(help="Look after the toolbox (QEMU, buildah, guest kernel).", no_args_is_help=True)


def add_service_commands(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(init)
    app.command()(down)


def add_machine_commands(app: typer.Typer) -> None:
    app.command()(ca)
    app.command()(doctor)


# -- the service -------------------------------------------------------------------------------------------------------


def serve(
    context: typer.Context,
    listen: Annotated[str | None, typer.Option(help="ADDRESS:PORT of the API [default: 127.0.0.1:7070].")] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the place of the service that runs; its clients only wait.")
    ] = False,
) -> None:
    """Run the service in the foreground. Ctrl-C stops it; microVMs go on and are taken up by the next start."""
    from rekindle import serve as service

    service.main(session.of(context).config(listen), take_over=take_over)


def down(context: typer.Context) -> None:
    """Terminate every microVM and stop the service. Returns when it is gone."""
    here = session.of(context)
    process = os.pidfd_open(int(here.get("/v1/status")["pid"]))
    try:
        with output.progress("Terminating every microVM"):
            ended = here.post("/v1/down")["terminated"]
        if not select.select([process], [], [], STOP_S)[0]:  # a pidfd is readable when its process has ended
            raise CallFailed(f"The service did not stop within {STOP_S:.0f} s; its log says why")
    finally:
        os.close(process)
    output.line(f"Terminated {ended} microVMs; the service has stopped")


# -- the machine -------------------------------------------------------------------------------------------------------


def ca(
    context: typer.Context,
    pem: Annotated[bool, typer.Option("--pem", help="The certificate itself.")] = False,
) -> None:
    """Print where the CA certificate of the endpoints is."""
    path = Path(session.of(context).environment["REKINDLE_CA"])
    output.line(path.read_text().rstrip() if pem else str(path))


def doctor(
    context: typer.Context,
    clean: Annotated[
        bool, typer.Option("--clean", help="End and remove what no row of the state folder names; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --clean: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine can do and how to fix what it lacks. Found out by trying; needs no service."""
    from rekindle import doctor as examination
    from rekindle.check import Verdict

    config = session.of(context).config()
    if clean:
        asyncio.run(_clean(config, sure=yes))
        return
    with output.progress("Examining this machine"):
        checks = asyncio.run(examination.examine(config))
    items = [asdict(check) | {"verdict": check.verdict.value} for check in checks]
    if as_json:
        output.document(items)
    else:
        output.table(("", "CHECK", "FOUND"), ((one["verdict"], one["name"], one["detail"]) for one in items))
        for one in (one for one in items if one["fix"]):
            output.line(f"{one['name']}: {one['fix']}")
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(1)


async def _clean(config: Config, *, sure: bool) -> None:
    """Raises CallFailed when something did not go; the rest is gone then."""
    from rekindle import strays

    found = await strays.find(config)
    for stray in found:
        output.line(stray.what)
    if not found:
        output.line("Nothing has lost its record")
        return
    if not sure:
        typer.confirm(f"End and remove these {len(found)}?", abort=True)
    failed = [why for stray in found if (why := await _cleaned(stray))]
    if failed:
        raise CallFailed("; ".join(failed))
    output.line(f"Removed {len(found)}")


async def _cleaned(stray: Stray) -> str:
    """Why it is still there; empty when it is gone."""
    try:
        await stray.clean()
    except (RekindleError, OSError) as error:
        return f"{stray.what}: {error}"
    return ""


# -- tools -------------------------------------------------------------------------------------------------------------


@tools.command("ls")
def list_trees(context: typer.Context, as_json: Json = False) -> None:
    """List the toolbox trees of this machine, newest first."""
    from rekindle.image import toolbox

    here = session.of(context)
    named = snapshots_of_trees([here.layout.state])
    items = [_tree(one, named) for one in toolbox.installed(here.config().tools_dir)]
    if as_json:
        output.document(items)
        return
    output.table(("TREE", "MADE (UTC)", "QEMU", "SNAPSHOTS HERE", "FOLDER"), (_tree_row(one) for one in items))


def _tree(tree: Toolbox, named: Mapping[str, int]) -> dict[str, object]:
    return {
        "digest": tree.digest,
        "root": str(tree.root),
        "made_at_ms": tree.made_at_ms,
        "qemu": tree.qemu_version,
        "packages": dict(tree.packages),
        "snapshots": named.get(tree.digest, 0),
    }


def _tree_row(tree: Mapping[str, object]) -> tuple[object, ...]:
    return tree["digest"], output.instant(tree["made_at_ms"]), tree["qemu"], tree["snapshots"], tree["root"]


@tools.command()
def update(context: typer.Context) -> None:
    """Make a toolbox of today's packages. With its base image; the next start of the service bakes with them."""
    from rekindle.image import base, toolbox

    folder = session.of(context).config().tools_dir

    async def work() -> Toolbox:
        tree = await toolbox.update(folder, output.line)
        await base.update(folder, tree, output.line)
        return tree

    output.line(f"The newest toolbox is {asyncio.run(work()).digest}")


@tools.command()
def prune(
    context: typer.Context,
    also: Annotated[list[Path] | None, typer.Option(help="Another state folder with snapshots; repeatable.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove toolbox trees that no snapshot needs; the newest stays."""
    from rekindle.image import toolbox

    here = session.of(context)
    states = [here.layout.state, *(also or [])]
    named = snapshots_of_trees(states)
    unused = [tree for tree in toolbox.installed(here.config().tools_dir)[1:] if tree.digest not in named]
    if not unused:
        output.line("Every toolbox tree is in use")
        return
    words = f"Remove {len(unused)} trees that no snapshot below {', '.join(map(str, states))} names?"
    if not yes and not typer.confirm(words):
        raise typer.Exit(1)
    for digest in asyncio.run(toolbox.prune(here.config().tools_dir, named)):
        output.line(f"{digest} removed")


def snapshots_of_trees(states: Iterable[Path]) -> dict[str, int]:
    """How many snapshots below these state folders name each tree (docs/contracts.md §1 and §6)."""
    places = ("images/*/*/snapshot/manifest.json", "vms/*/snapshots/*/manifest.json")
    manifests = [path for state in states for place in places for path in state.glob(place)]
    return dict(Counter(str(json.loads(path.read_text())["tools"]) for path in manifests))
