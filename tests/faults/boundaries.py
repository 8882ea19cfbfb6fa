"""Where the works can be interrupted: every await and every durable step, read from the source by its syntax tree.

A boundary is a line of a function. Nothing of the product knows of it: `launcher` meets it with a trace function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *(f"rekindle/node/{name}.py" for name in ("perform", "keeper", "sleep", "bake", "builds", "removals", "hooks")),
    *(f"rekindle/driver/{name}.py" for name in ("qemu", "freeze", "layers", "start", "files", "delta", "manifest")),
)
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
