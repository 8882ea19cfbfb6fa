"""`python -m rekindle.image.install`, for scripts/install: toolbox and base image, made when they are missing.

With `--print` it only says where the newest toolbox is.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rekindle import config
from rekindle.core.errors import RekindleError
from rekindle.image import base, toolbox


def main() -> int:
    """0 when both are there; 1 with one sentence on standard error when this machine cannot make them."""
    tools_dir = config.load().tools_dir
    if sys.argv[1:] == ["--print"]:
        print(toolbox.installed(tools_dir)[0].root)  # noqa: T201 - this is what the command prints
        return 0
    try:
        asyncio.run(_ensure(tools_dir))
    except RekindleError as err:
        print(f"rekindle: {err.message}", file=sys.stderr)  # noqa: T201 - this is what the command prints
        return 1
    return 0


async def _ensure(tools_dir: Path) -> None:
    tools = await toolbox.ensure(tools_dir, _say)
    image = await base.ensure(tools_dir, tools, _say)
    _say(f"toolbox {tools.digest} (QEMU {tools.qemu_version}), base image {image.name} {image.digest}: {tools_dir}")


def _say(line: str) -> None:
    print(f"rekindle: {line}", flush=True)  # noqa: T201 - this is what the command prints


if __name__ == "__main__":
    sys.exit(main())
