"""Documentation that is computed is up to date, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.api.projections import PROJECTIONS

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "scripts/docs.py"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_the_pages_are_what_the_code_says() -> None:
    done = run(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_a_page_that_was_edited_or_lost_is_found_and_written_again(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "scripts").mkdir()
    for name in ("docs.py", "compat.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    shutil.copytree(ROOT / "tests/golden", tmp_path / "tests/golden")
    (tmp_path / "docs/cli.md").unlink()
    with (tmp_path / "docs/lifecycle.md").open("a") as page:
        page.write("by hand\n")
    found = run(tmp_path, "--check")
    assert found.returncode == 1
    assert found.stderr.count("run `make docs`") == 2
    assert run(tmp_path).stdout.split() == ["wrote", "docs/lifecycle.md", "wrote", "docs/cli.md"]
    assert run(tmp_path, "--check").returncode == 0


def test_every_phase_command_and_key_has_its_place() -> None:
    pages = {
        name: (ROOT / "docs" / name).read_text() for name in ("lifecycle.md", "configuration.md", "cli.md", "compat.md")
    }
    assert "RESUMING | `SUSPENDED` | resume |" in pages["lifecycle.md"]
    assert '| `listen` | text | `"127.0.0.1:7070"` |' in pages["configuration.md"]
    assert "## `[machine]`" in pages["configuration.md"]
    assert "## `rekindle image build`" in pages["cli.md"]
    assert "--no-egress" in pages["cli.md"]
    for operation in PROJECTIONS:
        assert f"| `{operation}` |" in pages["compat.md"]


def test_a_difference_makes_an_operation_one_that_differs(tmp_path: Path) -> None:
    for folder in ("docs", "scripts", "tests/golden"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    row = '[[difference]]\noperations = ["GetMicrovm"]\nwhat = "colour"\naws = "red"\nhere = "blue"\nwhy = "taste"\n'
    with (tmp_path / "docs/compat.toml").open("a") as data:
        data.write(f"\n{row}")
    exact = "| `GetMicrovm` | GET 200 | exact |"
    assert exact in (ROOT / "docs/compat.md").read_text()
    assert run(tmp_path).returncode == 0
    page = (tmp_path / "docs/compat.md").read_text()
    assert exact not in page
    assert "| `GetMicrovm` | GET 200 | differs: colour |" in page
    assert "| `GetMicrovm` | colour | red | blue | taste |" in page
    (tmp_path / "docs/compat.toml").write_text(row.replace("GetMicrovm", "GetMicrovmm"))
    assert "GetMicrovmm is no operation" in run(tmp_path).stderr
