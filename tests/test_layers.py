"""Imports point down (design §2): a folder, or a module beside the folders, imports what its row says and no more."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rekindle

PACKAGE = Path(rekindle.__file__).parent

#: Modules beside the folders that anybody above `core` may use: they know nothing of ours but `core`.
GROUND = {"core", "clock", "config", "unixsock", "seal", "process", "rest", "threads"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "clock": set(),
    "unixsock": set(),
    "config": {"core", "config_rules"},
    "config_rules": {"config"},
    "seal": {"core"},
    "process": {"core"},
    "rest": {"clock"},
    "threads": set(),
    "store": GROUND,
    "driver": GROUND,
    "guest": GROUND,
    "image": GROUND,
    "identity": GROUND,
    "node": GROUND | {"store", "driver", "guest", "image"},
    "api": GROUND | {"store"},
    # The same signatures; and an index of its own, kept by the same few lines of SQLite.
    "artifacts": GROUND | {"api.sigv2", "api.sigv4", "api.sigv4_query", "store.database", "store.sql"},
}
#: A hypervisor driver knows the interface and the tools of its room, never another driver (style C4, C5).
DRIVERS = {"qemu", "firecracker"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """`rekindle/api/app.py` → `api.app`."""
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """What of ours a file imports, anywhere in it, without the leading `rekindle.`."""
    found = set()
    known = {name_of(one) for one in modules()}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            submodules = {one for one in inner if one.removeprefix("rekindle.") in known}
            found |= submodules or {module}
    return {one.removeprefix("rekindle.") for one in found if one.startswith("rekindle.")}


def allowed(name: str, of: str) -> bool:
    room = of.split(".")[0]
    rows = MAY_IMPORT[room] | {room}
    return any(name == row or name.startswith(f"{row}.") for row in rows)


@pytest.mark.parametrize("file", [one for one in modules() if name_of(one).split(".")[0] in MAY_IMPORT], ids=name_of)
def test_imports_point_down(file: Path) -> None:
    wrong = {one for one in imports(file) if not allowed(one, name_of(file))}
    assert not wrong, f"{name_of(file)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_knows_no_other_driver(driver: str) -> None:
    for file in modules():
        name = name_of(file)
        if name == f"driver.{driver}" or name.startswith(f"driver.{driver}."):
            others = {f"driver.{other}" for other in DRIVERS - {driver}}
            assert not {one for one in imports(file) if any(one == o or one.startswith(f"{o}.") for o in others)}


def test_nobody_imports_the_wiring() -> None:
    for file in modules():
        if name_of(file).split(".")[0] not in ("cli", "__main__", "serve"):
            assert "serve" not in imports(file), file


def test_every_folder_has_its_row() -> None:
    folders = {one.name for one in PACKAGE.iterdir() if (one / "__init__.py").exists()}
    assert folders - {"cli"} <= set(MAY_IMPORT)


def test_the_check_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from rekindle.api import app\n    import rekindle.node.agent\n")
    found = imports(file)
    assert found == {"api.app", "node.agent"}
    assert not any(allowed(one, "core.x") for one in found)
    assert allowed("api.sigv4", "artifacts.app")
    assert not allowed("api.app", "artifacts.app")
