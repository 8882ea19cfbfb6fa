"""Images on the operator's API: everything about one, the log of a build, and removal."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rekindle import tail
from rekindle.api import logs
from rekindle.core.arn import image_arn
from rekindle.core.errors import NotFound
from rekindle.core.image import Version, VersionState
from rekindle.jsonable import jsonable
from rekindle.node.layout import Layout
from rekindle.operator_events import EVENTS_SHOWN
from rekindle.store.db import Store

VERSIONS_SHOWN = 50
_BUILDING = (VersionState.PENDING, VersionState.IN_PROGRESS)

#: Delete an image, or one version of it; returns when it is gone.
Remove = Callable[[str, str | None], Awaitable[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Images:
    store: Store
    layout: Layout
    remove: Remove

    def routes(self) -> list[Route]:
        return [
            Route("/v1/images/one", self.inspect),
            Route("/v1/images/log", self.log),
            Route("/v1/images/rm", self.rm, methods=["POST"]),
        ]

    async def inspect(self, request: Request) -> Response:
        """Everything about the image `?arn=`: its row, its newest versions with their builds, its story."""
        image = await self.store.image(_arn(request))
        if image is None:
            raise _no_image(_arn(request))
        versions = await self.store.versions(image.arn, after=None, limit=VERSIONS_SHOWN)
        more = {
            "versions": [await self._version(version) for version in versions],
            "events": jsonable(await self.store.events(image.arn, EVENTS_SHOWN)),
        }
        return JSONResponse(jsonable(image) | more)

    async def _version(self, version: Version) -> dict[str, object]:
        """A version and its builds, each with the names of its log on AWS and the file where it is."""
        builds = []
        for build in await self.store.builds(version.image_arn, version.version):
            names = logs.of_build(version, build)
            file = self.layout.build_log(build.id)
            builds.append({**jsonable(build), "log_group": names.group, "log_stream": names.stream, "log": str(file)})
        return {**jsonable(version), "builds": builds}

    async def log(self, request: Request) -> Response:
        """A build's log (`?arn=&version=`; the newest version by default); with `&follow=1` until the build is over."""
        arn = _arn(request)
        version = request.query_params.get("version") or await self._newest_version(arn)
        builds = await self.store.builds(arn, version)
        if not builds:
            raise NotFound(f"There is no version {version} of {arn}")
        path = self.layout.build_log(builds[0].id)

        async def over() -> bool:
            row = await self.store.version(arn, version)
            return "follow" not in request.query_params or row is None or row.state not in _BUILDING

        return text(tail.follow(path, over))

    async def _newest_version(self, arn: str) -> str:
        versions = await self.store.versions(arn, after=None, limit=1)
        if not versions:
            raise _no_image(arn)
        return versions[0].version

    async def rm(self, request: Request) -> Response:
        await self.remove(_arn(request), request.query_params.get("version"))
        return JSONResponse({})


def text(chunks: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(chunks, media_type="text/plain; charset=utf-8")


def _arn(request: Request) -> str:
    return str(image_arn(request.query_params.get("arn", "")))


def _no_image(arn: str) -> NotFound:
    return NotFound(f"There is no image {arn}; `rekindle image ls` lists them")
