"""What a client needs to speak to this service: `client.env` for shells, an AWS profile for everything else.

Nothing outside the state folder is touched. Values are quoted; the file is for any POSIX shell.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rekindle.config import Config
from rekindle.core.account import AccessKey
from rekindle.identity import private

#: What would win over our values, or send them elsewhere.
_IN_THE_WAY = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
#: The services that the API serves, and those that it answers so that no call carries our keys to AWS (api/front.py).
_AT_THE_API = ("lambda_microvms", "lambda_core", "sts", "iam", "cloudwatch_logs")
_HOSTS = "localhost,127.0.0.1,::1"


def write_client_files(config: Config, access_key: AccessKey, api_url: str, store_url: str, ca: Path) -> None:
    """Write `client.env`, `aws/config` and `aws/credentials` into the state folder. Can be repeated."""
    urls = dict.fromkeys(_AT_THE_API, api_url) | {"s3": store_url}
    bundle = ca if any(url.startswith("https") for url in urls.values()) else None
    private.write(config.state / "client.env", _client_env(config, access_key, urls, ca, bundle).encode())
    folder = private.folder(config.state / "aws")
    private.write(folder / "config", _aws_config(config, urls, bundle).encode())
    private.write(folder / "credentials", _aws_credentials(access_key).encode())


def _client_env(config: Config, access_key: AccessKey, urls: Mapping[str, str], ca: Path, bundle: Path | None) -> str:
    values = {
        "REKINDLE_STATE": str(config.state),
        "REKINDLE_CA": str(ca),
        **{f"AWS_ENDPOINT_URL_{name.upper()}": url for name, url in urls.items()},
        "AWS_ACCESS_KEY_ID": access_key.key_id,
        "AWS_SECRET_ACCESS_KEY": access_key.secret,
        "AWS_REGION": config.region,
        "AWS_DEFAULT_REGION": config.region,
    }
    if bundle is not None:
        values["AWS_CA_BUNDLE"] = str(bundle)
    lines = [
        "# Written by rekindle at every start. Use: . client.env",
        *(f"export {name}={shlex.quote(value)}" for name, value in values.items()),
        f"unset {' '.join(_IN_THE_WAY)}",
        *_no_proxy(),
        *_path(Path(sys.executable).parent),
    ]
    return "\n".join(lines) + "\n"


def _no_proxy() -> list[str]:
    """The service is on this machine: a proxy set in the environment must not carry the calls away."""
    return [
        f'case ",${{{name}:-}}," in *,{_HOSTS},*) ;; *) export {name}="{_HOSTS}${{{name}:+,${name}}}" ;; esac'
        for name in ("NO_PROXY", "no_proxy")
    ]


def _path(programs: Path) -> list[str]:
    """`rekindle` and `aws` of this installation, after everything else on the PATH."""
    quoted = shlex.quote(str(programs))
    return [f'case ":$PATH:" in *:{quoted}:*) ;; *) export PATH="$PATH":{quoted} ;; esac']


def _aws_config(config: Config, urls: Mapping[str, str], bundle: Path | None) -> str:
    profile = [f"region = {config.region}", "services = rekindle"]
    if bundle is not None:
        profile.append(f"ca_bundle = {bundle}")
    lines = ["[default]", *profile, "", "[profile rekindle]", *profile, "", "[services rekindle]"]
    for name, url in urls.items():
        lines += [f"{name} =", f"  endpoint_url = {url}"]
    return "\n".join(lines) + "\n"


def _aws_credentials(access_key: AccessKey) -> str:
    pair = [f"aws_access_key_id = {access_key.key_id}", f"aws_secret_access_key = {access_key.secret}"]
    return "\n".join(["[default]", *pair, "", "[rekindle]", *pair]) + "\n"
