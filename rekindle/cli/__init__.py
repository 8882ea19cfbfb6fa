"""The `rekindle` command. AWS operations go through boto3, everything else through the operator socket."""

from rekindle.cli.app import main

__all__ = ["main"]
