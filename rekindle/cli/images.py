"""Images: build a folder, list, follow a build's log, switch versions on and off, remove."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean parameter to Typer

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from rekindle.cli import archive, output, session, stories
from rekindle.cli.machines import Json, image_identifier
from rekindle.cli.session import CallFailed, Session

BUCKET = "rekindle-artifacts"
BUILD_HOOKS = ("ready", "validate")
RUNTIME_HOOKS = ("run", "resume", "suspend", "terminate")
SPOOL_BYTES = 16 << 20  # a larger archive goes to disk

Image = Annotated[str, typer.Argument(help="Image name or ARN.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="An image version, as 2.0.")]

commands = typer.Typer(help="Build, list and remove images and their versions.", no_args_is_help=True)


@commands.command()
def build(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder with a Dockerfile.", callback=session.existing_folder)],
    name: Annotated[str | None, typer.Option(help="Image name [default: the folder's name].")] = None,
    memory: Annotated[int | None, typer.Option(help="MiB of memory of each microVM [default: 2048].")] = None,
    hook: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME=SECONDS: ready, validate, run, resume, suspend, terminate, all; repeatable."),
    ] = None,
    hook_port: Annotated[int, typer.Option(help="Port on which the app answers its hooks.")] = 9000,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the app; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Build an image from a folder, or its next version when the name exists.

    Dockerfile, boot, snapshot; the build's log is shown until it ends. MicroVMs of an older version run on.
    """
    here = session.of(context)
    name = name or folder.resolve().name
    request = _request(here, memory, _hooks(hook or [], hook_port), dict(_pair(text) for text in env or []))
    with here.aws() as aws:
        request["codeArtifact"] = {"uri": _upload(here, folder, name)}
        made = _create_or_update(aws, name, image_identifier(here, name), request)
    arn, version = made["imageArn"], made["imageVersion"]
    _follow(here, arn, version=version, as_text=not as_json)
    with here.aws() as aws:
        image = aws.get_microvm_image(imageIdentifier=arn)
        built = aws.get_microvm_image_version(imageIdentifier=arn, imageVersion=version)
    if built["state"] != "SUCCESSFUL":
        why = f"{name} is {image['state']}: {built.get('stateReason') or 'no reason is known'}"
        raise CallFailed(why + stories.last_lines(here, arn))
    if as_json:
        output.answer(image)
    else:
        output.line(f"{arn} is {image['state']}: version {version}; start one with: {here.command(f'run {name}')}")


def _create_or_update(aws: Any, name: str, arn: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        aws.get_microvm_image(imageIdentifier=arn)
    except aws.exceptions.ResourceNotFoundException:
        made: dict[str, Any] = aws.create_microvm_image(name=name, **request)
    else:
        made = aws.update_microvm_image(imageIdentifier=arn, **request)
    return made


def _request(here: Session, memory: int | None, hooks: dict[str, Any] | None, env: dict[str, str]) -> dict[str, Any]:
    """What a create and an update both ask, but for the artifact. The role is only echoed: this machine has no IAM."""
    with here.aws() as aws:
        base = aws.list_managed_microvm_images()["items"][0]["imageArn"]
    request: dict[str, Any] = {
        "baseImageArn": base,
        "buildRoleArn": f"arn:aws:iam::{here.config().account}:role/rekindle",
    }
    optional = {"hooks": hooks, "environmentVariables": env}
    if memory is not None:
        optional["resources"] = [{"minimumMemoryInMiB": memory}]  # type: ignore[assignment]
    return request | {member: value for member, value in optional.items() if value}


def _upload(here: Session, folder: Path, name: str) -> str:
    """Put the folder's zip into the artifact store under its own hash; returns its URI."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as file:
        digest = archive.write(folder, file)
        key = f"{name}/{digest}.zip"
        with output.progress(f"Uploading {folder} to s3://{BUCKET}/{key}"):
            if BUCKET not in {bucket["Name"] for bucket in here.s3.list_buckets()["Buckets"]}:
                here.s3.create_bucket(Bucket=BUCKET)
            here.s3.upload_fileobj(file, BUCKET, key)
    return f"s3://{BUCKET}/{key}"


def _hooks(wanted: list[str], port: int) -> dict[str, Any] | None:
    """The `hooks` member of CreateMicrovmImage; None when no hook is wanted."""
    enabled: dict[str, dict[str, Any]] = {"microvmImageHooks": {}, "microvmHooks": {}}
    for text in wanted:
        name, _, seconds = text.partition("=")
        for hook in (*BUILD_HOOKS, *RUNTIME_HOOKS) if name == "all" else (name,):
            if hook not in (*BUILD_HOOKS, *RUNTIME_HOOKS) or (seconds and not seconds.isdigit()):
                raise typer.BadParameter(
                    f"--hook {text}: must be ready, validate, run, resume, suspend, terminate or all"
                )
            group = enabled["microvmImageHooks" if hook in BUILD_HOOKS else "microvmHooks"]
            group[hook] = "ENABLED"
            if seconds:
                group[f"{hook}TimeoutInSeconds"] = int(seconds)
    used = {group: members for group, members in enabled.items() if members}
    return {"port": port, **used} if used else None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--env {text}: must be NAME=VALUE")
    return name, value


def _follow(here: Session, arn: str, *, version: str, as_text: bool) -> None:
    """The build's log until the build is over."""
    with output.progress(f"Building {arn} version {version}"):
        for chunk in here.stream("/v1/images/log", arn=arn, version=version, follow="1"):
            if as_text:
                output.copy([chunk])


@commands.command("ls")
def list_images(context: typer.Context, as_json: Json = False) -> None:
    """List the images of your account."""
    here = session.of(context)
    with here.aws() as aws:
        items = [item for page in aws.get_paginator("list_microvm_images").paginate() for item in page["items"]]
    if as_json:
        output.document(items)
        return
    head = ("IMAGE", "STATE", "ACTIVE", "FAILED", "CREATED (UTC)", "ARN")
    output.table(head, (_row(item) for item in items))


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    active, failed = item.get("latestActiveImageVersion"), item.get("latestFailedImageVersion")
    return item["name"], item["state"], active, failed, _created(item), item["imageArn"]


def _created(item: dict[str, Any]) -> str:
    return output.instant(int(item["createdAt"].timestamp() * 1000))


@commands.command()
def versions(context: typer.Context, image: Image, as_json: Json = False) -> None:
    """List the versions of an image, newest first."""
    here = session.of(context)
    with here.aws() as aws:
        pages = aws.get_paginator("list_microvm_image_versions").paginate(imageIdentifier=image_identifier(here, image))
        items = [item for page in pages for item in page["items"]]
    if as_json:
        output.document(items)
        return
    head = ("VERSION", "STATE", "STATUS", "MEMORY", "CREATED (UTC)", "REASON")
    output.table(head, (_version_row(item) for item in items))


def _version_row(item: dict[str, Any]) -> tuple[object, ...]:
    memory = f"{item['resources'][0]['minimumMemoryInMiB']} MiB"
    return item["imageVersion"], item["state"], item["status"], memory, _created(item), item.get("stateReason")


@commands.command()
def inspect(context: typer.Context, image: Image, as_json: Json = False) -> None:
    """Show everything about one image. Row, versions, builds, where its logs are, story."""
    here = session.of(context)
    found = here.get("/v1/images/one", arn=image_identifier(here, image))
    if as_json:
        output.document(found)
        return
    output.facts(_summary(found))
    output.line("\nVersions")
    head = ("  VERSION", "STATE", "STATUS", "MEMORY", "BASE", "LOG STREAM OF THE BUILD", "REASON")
    output.table(head, (_built_row(version) for version in found["versions"]))
    stories.story(found["events"])


def _summary(image: dict[str, Any]) -> dict[str, object]:
    newest = image["versions"][0]
    build = newest["builds"][0]
    return {
        "image": image["arn"],
        "id": image["id"],
        "state": image["state"],
        "account": f"{image['account']} {image['region']}",
        "active": image["latest_active_version"],
        "failed": image["latest_failed_version"],
        "created": output.instant(image["created_at_ms"]),
        "updated": output.instant(image["updated_at_ms"]),
        "artifact": newest["artifact_uri"],
        "variables": ", ".join(sorted(newest["environment"])),
        "tags": ", ".join(f"{key}={value}" for key, value in sorted((image["tags"] or {}).items())),
        "log group": build["log_group"],
        "build log": build["log"],
    }


def _built_row(version: dict[str, Any]) -> tuple[object, ...]:
    base = f"{version['request'].get('baseImageArn', '').rpartition(':')[2]} {version['base_image_version']}"
    stream = version["builds"][0]["log_stream"]
    memory = f"{version['memory_mib']} MiB"
    number = f"  {version['version']}"
    return number, version["state"], version["status"], memory, base, stream, version["state_reason"]


@commands.command()
def activate(context: typer.Context, image: Image, version: Version) -> None:
    """Let microVMs be started from a version. Without a version `run` takes the newest active one."""
    _set_status(session.of(context), image, version, "ACTIVE")


@commands.command()
def deactivate(context: typer.Context, image: Image, version: Version) -> None:
    """Start no more microVMs from a version; those that are there live on."""
    _set_status(session.of(context), image, version, "INACTIVE")


def _set_status(here: Session, image: str, version: str, status: str) -> None:
    arn = image_identifier(here, image)
    with here.aws() as aws:
        aws.update_microvm_image_version(imageIdentifier=arn, imageVersion=version, status=status)
    output.line(f"{arn} version {version} is {status}")


@commands.command()
def logs(
    context: typer.Context,
    image: Image,
    version: Annotated[str | None, typer.Option(help="Image version [default: the newest].")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build is over.")] = False,
) -> None:
    """Print the build log of an image version."""
    here = session.of(context)
    query = {"arn": image_identifier(here, image)} | ({"version": version} if version else {})
    output.copy(here.stream("/v1/images/log", **query | ({"follow": "1"} if follow else {})))


@commands.command()
def rm(
    context: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image names or ARNs.")],
    version: Annotated[str | None, typer.Option(help="Only this version, of one image.")] = None,
) -> None:
    """Remove images with their snapshots, or one version. Refused while a microVM of theirs lives."""
    if version is not None and len(images) != 1:
        raise typer.BadParameter("--version goes with one image")
    here = session.of(context)
    for arn in (image_identifier(here, name) for name in images):
        with stories.behind_failures(here, arn):
            here.post("/v1/images/rm", arn=arn, **({} if version is None else {"version": version}))
        output.line(f"{arn} {'' if version is None else f'version {version} '}removed")
