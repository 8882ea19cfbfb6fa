"""A program that knows nothing of Rekindle runs its whole life against it, told where by its environment alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.e2e.cloud import ROOT, Cloud

pytestmark = pytest.mark.slow


def test_a_program_written_for_aws_runs_unedited(cloud: Cloud) -> None:
    given = cloud.env()
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "SSL_CERT_FILE": given["REKINDLE_CA"]}
    aws = {name: value for name, value in given.items() if name.startswith("AWS_") or name.lower() == "no_proxy"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples/aws_program.py", ROOT / "examples/interpreter"],
        env=env | aws,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + cloud.log()[-3000:]
    assert done.stdout.rstrip().endswith("done")


def test_the_program_does_not_know_where_it_runs() -> None:
    text = (ROOT / "examples/aws_program.py").read_text().partition('"""\n\nfrom')[2]
    assert "rekindle" not in text.lower()
