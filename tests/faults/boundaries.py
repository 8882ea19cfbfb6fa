"""Where the works can be interrupted: every await and every durable step, read from the source by its syntax tree.

A boundary is a line of a function. Nothing of the product knows of it: `launcher` meets it with a trace function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = ("perform", "keeper", "works", "confirm", "sleep", "room", "bake", "builds", "removals", "hooks")
DRIVER = ("qemu", "freeze", "layers", "start", "files", "delta", "manifest", "whole", "stalls", "reserve")
FILES = (*(f"rekindle/node/{name}.py" for name in NODE), *(f"rekindle/driver/{name}.py" for name in DRIVER))
#: What is no work on a microVM or image, or is met as one step of it.
LEFT_OUT = {
    "rekindle/node": {
        "agent": "hands out works", "sweep": "the start of the service, which every SIGKILL here repeats",
        "relay": "one step for its callers", "sockets": "the service's own",
        "operator": "questions", "desk": "questions",
        "deadlines": "asks, like a caller", "watch": "waits", "gauge": "reads", "artifacts": "reads",
        "connectors": "rows only", "machine": "values", "layout": "values",
    },
    "rekindle/driver": {
        "process": "one step for its callers", "qmp": "one step for its callers", "jail": "one step for its callers",
        "cgroup": "one step for its callers", "leftovers": "one step for its callers", "qcow2": "one file at once",
        "interrupts": "one step for its callers", "pagemap": "reads", "probe": "the start of the service",
        "host": "reads", "machine": "values", "facts": "values", "base": "values", "progress": "in memory only",
    },
}  # fmt: skip
#: Calls that change what the next start finds.
STEPS = {
    "rename", "replace", "fsync", "sync", "unlink", "rmtree", "rmdir", "remove_tree", "link", "mkdir", "write",
    "write_text", "write_bytes", "fchmod", "chmod", "chown", "fchown", "ftruncate", "truncate", "pwrite", "_pwrite",
    "replace_durably", "copy_sparse", "clone_sparse", "create", "save", "seal", "report", "ask", "part", "link_all",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Boundary:
    """One line. `number` counts those of the same function, from 1 on, so that a moved function keeps its names."""

    file: str
    function: str  #: as `co_qualname` has it
    number: int
    line: int
    text: str
    awaits: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}#{self.number} `{self.text}`"

    @property
    def key(self) -> tuple[str, str, str]:
        """What survives an edit elsewhere in the file."""
        return self.file, self.function, self.text


def collect(root: Path = ROOT, files: tuple[str, ...] = FILES) -> list[Boundary]:
    """All of them, in the order of the source."""
    return [boundary for file in files for boundary in _of_file(file, (root / file).read_text())]


def _of_file(file: str, source: str) -> Iterator[Boundary]:
    lines = source.splitlines()
    for function, node in _functions(ast.parse(source), ""):
        found: dict[int, bool] = {}
        for one in _own(node):
            if (awaits := _awaits(one)) or _is_step(one):
                found[one.lineno] = found.get(one.lineno, False) or awaits
        for number, line in enumerate(sorted(found), 1):
            yield Boundary(file, function, number, line, lines[line - 1].strip(), found[line])


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr | ast.stmt]:
    """Statements and expressions of the function itself, not of those within it."""
    queue: list[ast.AST] = list(function.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        queue.extend(ast.iter_child_nodes(node))


def _awaits(node: ast.AST) -> bool:
    return isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)


def _is_step(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in STEPS
