"""Documentation that is computed is up to date, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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
    shutil.copy(ROOT / "scripts/docs.py", tmp_path / "scripts")
    (tmp_path / "docs/cli.md").unlink()
    with (tmp_path / "docs/lifecycle.md").open("a") as page:
        page.write("by hand\n")
    found = run(tmp_path, "--check")
    assert found.returncode == 1
    assert found.stderr.count("run `make docs`") == 2
    assert run(tmp_path).stdout.split() == ["wrote", "docs/lifecycle.md", "wrote", "docs/cli.md"]
    assert run(tmp_path, "--check").returncode == 0


def test_every_phase_command_and_key_has_its_place() -> None:
    pages = {name: (ROOT / "docs" / name).read_text() for name in ("lifecycle.md", "configuration.md", "cli.md")}
    assert "RESUMING | `SUSPENDED` | resume |" in pages["lifecycle.md"]
    assert '| `listen` | text | `"127.0.0.1:7070"` |' in pages["configuration.md"]
    assert "## `[machine]`" in pages["configuration.md"]
    assert "## `rekindle image build`" in pages["cli.md"]
    assert "--no-egress" in pages["cli.md"]
