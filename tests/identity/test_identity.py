"""The state folder's keys and the files that clients read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import boto3
import pytest

from rekindle import identity
from rekindle.clock import wall_ms
from rekindle.config import Config
from rekindle.core.account import AccessKey
from rekindle.core.errors import Invalid
from rekindle.identity.keys import new_access_key

ODD = "a b'c$(touch x)"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state=tmp_path / ODD, tools_dir=tmp_path / "tools", region="eu-central-1")


def test_the_first_start_makes_everything_and_later_ones_keep_it(config: Config) -> None:
    first = identity.ensure(config, wall_ms)
    assert identity.ensure(config, wall_ms) == first
    assert len(first.token_key.secret) == 32
    folders = [config.state, config.state / "ca", config.state / "keys"]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert (config.state / "keys" / "token.json").stat().st_mode & 0o777 == 0o600


def test_a_folder_open_to_others_is_closed(config: Config) -> None:
    config.state.mkdir(mode=0o755)
    identity.ensure(config, wall_ms)
    assert config.state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["", "[]", '{"kid": "a", "key": "!"}', '{"kid": "a", "key": "AAAA"}'])
def test_a_damaged_token_key_is_an_error_and_stays(config: Config, content: str) -> None:
    identity.ensure(config, wall_ms)
    path = config.state / "keys" / "token.json"
    path.write_text(content)
    with pytest.raises(Invalid, match=r"token\.json"):
        identity.ensure(config, wall_ms)
    assert path.read_text() == content


def test_access_keys_have_the_form_of_aws() -> None:
    pairs = {new_access_key() for _ in range(50)}
    assert len(pairs) == 50
    for key_id, secret in pairs:
        assert re.fullmatch(r"AKIA[A-Z2-7]{16}", key_id)
        assert re.fullmatch(r"[A-Za-z0-9+/]{40}", secret)


@pytest.fixture
def key(config: Config) -> AccessKey:
    made = identity.ensure(config, wall_ms)
    key = AccessKey(*new_access_key(), config.account)
    identity.write_client_files(config, key, "http://127.0.0.1:7070", "https://localhost:7071", made.ca_pem)
    return key


def environment(config: Config, **before: str) -> dict[str, str]:
    """What a POSIX shell has after `. client.env`."""
    script = '. "$1"; env -0'
    command = ["sh", "-euc", script, "sh", str(config.state / "client.env")]
    ran = subprocess.run(command, env={"PATH": "/usr/bin:/bin", **before}, capture_output=True, timeout=20, check=True)
    return dict(part.split("=", 1) for part in ran.stdout.decode().split("\0") if part)


def test_client_env_sets_a_shell_up(config: Config, key: AccessKey) -> None:
    env = environment(config, AWS_PROFILE="other", AWS_SESSION_TOKEN="old", NO_PROXY="intranet", AWS_REGION="x")
    assert env["AWS_ENDPOINT_URL_LAMBDA_MICROVMS"] == env["AWS_ENDPOINT_URL_LAMBDA_CORE"] == "http://127.0.0.1:7070"
    assert env["AWS_ENDPOINT_URL_S3"] == "https://localhost:7071"
    for service in ("STS", "IAM", "CLOUDWATCH_LOGS"):
        assert env[f"AWS_ENDPOINT_URL_{service}"] == "http://127.0.0.1:7070"
    assert (env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]) == (key.key_id, key.secret)
    assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert env["REKINDLE_CA"] == env["AWS_CA_BUNDLE"] == str(config.state / "ca" / "ca.pem")
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(env)
    assert env["NO_PROXY"] == "localhost,127.0.0.1,::1,intranet"
    assert env["no_proxy"] == "localhost,127.0.0.1,::1"
    assert environment(config, **env)["PATH"] == env["PATH"]


def test_plain_http_leaves_the_ca_bundle_alone(config: Config, key: AccessKey) -> None:
    identity.write_client_files(config, key, "http://127.0.0.1:1", "http://127.0.0.1:2", config.state / "ca/ca.pem")
    assert environment(config, AWS_CA_BUNDLE="/corporate.pem")["AWS_CA_BUNDLE"] == "/corporate.pem"
    assert "ca_bundle" not in (config.state / "aws" / "config").read_text()


@pytest.mark.parametrize("profile", [None, "rekindle"])
def test_the_profile_is_read_by_boto3(
    config: Config, key: AccessKey, profile: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config.state / "aws" / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config.state / "aws" / "credentials"))
    session = boto3.Session(profile_name=profile)
    client = session.client("lambda-microvms")
    assert client.meta.endpoint_url == "http://127.0.0.1:7070"
    assert client.meta.region_name == "eu-central-1"
    assert session.client("s3").meta.endpoint_url == "https://localhost:7071"
    for service in ("lambda-core", "sts", "iam", "logs"):
        assert session.client(service).meta.endpoint_url == "http://127.0.0.1:7070"
    assert session.get_credentials().access_key == key.key_id
