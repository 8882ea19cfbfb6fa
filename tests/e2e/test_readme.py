"""The README's tour in the AWS CLI's words, run as it stands: a shell, curl, the real CLI, real microVMs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cloud import ROOT, Cloud
from tests.waiting import until

START = ". ~/.local/share/rekindle/client.env\n"


def tour() -> str:
    """The block of the README that begins with START."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [one for one in blocks if one.startswith(START)]
    return str(block)


def environment(cloud: Cloud, home: Path) -> dict[str, str]:
    """A home in which the state folder lies where the README looks for it; nothing of AWS is set."""
    place = home / ".local/share/rekindle"
    place.parent.mkdir(parents=True)
    place.symlink_to(cloud.state)
    (home / "examples").symlink_to(ROOT / "examples")
    return {"PATH": "/usr/bin:/bin", "HOME": str(home)}


@pytest.mark.long
def test_the_tour_with_the_aws_cli(cloud: Cloud, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-euxc", tour()],
        env=environment(cloud, tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + cloud.log()[-3000:]
    for said in ("CREATED", "SUSPENDED", "RUNNING", "UPDATED", "ACTIVE", "TERMINATED"):
        assert f"\n{said}\n" in done.stdout
    assert re.findall(r'"result": ?(null|"[^"]*")', done.stdout) == ["null", '"42"']  # memory outlives the sleep
    assert "code" not in {bucket["Name"] for bucket in cloud.client("s3").list_buckets()["Buckets"]}
    until(lambda: "app" not in images(cloud), 60, "the image is gone")
    core = cloud.client("lambda-core")
    until(lambda: not core.list_network_connectors()["NetworkConnectors"], 30, "the connector is gone")


def images(cloud: Cloud) -> set[str]:
    pages = cloud.client().get_paginator("list_microvm_images").paginate()
    return {item["name"] for page in pages for item in page["items"]}


def test_every_operation_of_a_life_is_in_the_tour() -> None:
    asked = set(re.findall(r"aws lambda-(?:microvms|core) ([a-z-]+)", tour()))
    assert asked >= {
        "create-microvm-image",
        "get-microvm-image",
        "update-microvm-image",
        "delete-microvm-image",
        "run-microvm",
        "get-microvm",
        "list-microvms",
        "suspend-microvm",
        "terminate-microvm",
        "create-microvm-auth-token",
        "tag-resource",
        "create-network-connector",
        "delete-network-connector",
    }
