"""Write the documentation that can be computed: the pages lifecycle, configuration, cli and compat of docs/.

`scripts/docs.py` writes, `scripts/docs.py --check` fails when a file is not what it would write.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import typer
from compat import page as compat_page
from compat import table as _table

from rekindle import config
from rekindle.cli.app import app
from rekindle.core import lifecycle
from rekindle.core.lifecycle import NEXT, OWES, WIRE, Ask, Phase

ROOT = Path(__file__).resolve().parents[1]
FOOT = "\n*Written by `make docs`; do not edit.*\n"


def pages() -> dict[str, str]:
    """File name below docs/ to its text."""
    return {
        "lifecycle.md": lifecycle_page(),
        "configuration.md": configuration_page(),
        "cli.md": cli_page(),
        "compat.md": compat_page(ROOT) + FOOT,
    }


# -- lifecycle ---------------------------------------------------------------------------------------------------------


def lifecycle_page() -> str:
    return (
        "# The life of a microVM\n\n"
        "Everything here is read from the one table in `rekindle/core/lifecycle.py`. Solid arrows are what a caller\n"
        "asks, dotted ones what the node found. A phase that owes work is the instruction to do it, after a crash\n"
        "too.\n\n"
        f"{_diagram()}\n## Phases\n\n{_phases()}\n## Transitions\n\n{_transitions()}{FOOT}"
    )


def _diagram() -> str:
    moves: dict[tuple[Phase, Phase, bool], list[str]] = {}
    for (phase, on), after in NEXT.items():
        if after is not phase:
            moves.setdefault((phase, after, isinstance(on, Ask)), []).append(on.value)
    lines = [
        f"    {phase.value} {'-->' if asked else '-.->'}|{', '.join(names)}| {after.value}"
        for (phase, after, asked), names in moves.items()
    ]
    return "```mermaid\nflowchart TD\n" + "\n".join(lines) + "\n```\n"


def _phases() -> str:
    rows = [
        (phase.value, f"`{WIRE[phase]}`", OWES[phase].value if phase in OWES else "", ", ".join(_asks(phase)))
        for phase in Phase
    ]
    return _table(("phase", "a caller sees", "owes", "may be asked to"), rows)


def _asks(phase: Phase) -> Iterator[str]:
    return (ask.value for ask in Ask if (phase, ask) in NEXT)


def _transitions() -> str:
    comments = _comments_of_members(Path(lifecycle.__file__))
    rows = [
        (phase.value, _kind(on), comments.get(f"{type(on).__name__}.{on.name}", ""), after.value)
        for (phase, on), after in NEXT.items()
    ]
    return _table(("in", "on", "which means", "then"), rows)


def _kind(on: Enum) -> str:
    return f"{'ask' if isinstance(on, Ask) else 'fact'}: {on.value}"


def _comments_of_members(path: Path) -> dict[str, str]:
    """`Class.MEMBER` to the comment at the end of its line."""
    source = path.read_text()
    lines = source.splitlines()
    found = {}
    for cls in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        for node in (node for node in cls.body if isinstance(node, ast.Assign)):
            _, mark, words = lines[node.lineno - 1].partition("  # ")
            if mark and isinstance(node.targets[0], ast.Name):
                found[f"{cls.name}.{node.targets[0].id}"] = words
    return found


# -- configuration -----------------------------------------------------------------------------------------------------


def configuration_page() -> str:
    comments = _field_comments(Path(config.__file__))
    top = [field for field in dataclasses.fields(config.Config) if not dataclasses.is_dataclass(_hint(field))]
    tables = [field for field in dataclasses.fields(config.Config) if dataclasses.is_dataclass(_hint(field))]
    parts = [f"# Configuration\n\n{_intro()}\n", _keys(config.Config, top, comments)]
    for field in tables:
        kind = _hint(field)
        words = comments.get(kind.__name__, "")
        parts.append(f"\n## `[{field.name}]`\n\n{words + chr(10) * 2 if words else ''}")
        parts.append(_keys(kind, list(dataclasses.fields(kind)), comments))
    return "".join(parts) + FOOT


def _intro() -> str:
    words = (config.__doc__ or "").partition("\n\n")[2]
    return words.strip() + "\n"


def _hint(field: dataclasses.Field[Any]) -> Any:
    return get_type_hints(config.Config)[field.name]


def _keys(kind: type[Any], fields: list[dataclasses.Field[Any]], comments: Mapping[str, str]) -> str:
    hints = get_type_hints(kind)
    presets = {name: keys for name, keys in config.PRESETS.items() if keys and kind is config.Quotas}
    rows = [
        (
            f"`{field.name}`",
            _type_words(hints[field.name]),
            _default(field),
            *(_shown(keys.get(field.name, field.default)) for keys in presets.values()),
            comments.get(f"{kind.__name__}.{field.name}", ""),
        )
        for field in fields
    ]
    return _table(("key", "type", "default", *(f'`preset = "{name}"`' for name in presets), "meaning"), rows)


def _type_words(hint: Any) -> str:
    words = {str: "text", int: "number", bool: "true or false", Path: "path"}
    return words[hint] if hint in words else f"list of {words[hint.__args__[0]]}"


#: Fields without a default of their own: `config.load` finds the value.
_COMPUTED = {"state": "`~/.local/share/rekindle`", "tools_dir": "`~/.local/share/rekindle/tools`"}


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        return _COMPUTED[field.name]
    return _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`".replace("'", '"')


def _field_comments(path: Path) -> dict[str, str]:
    """`Class.field` to its `#:` comment (at the end of its line or on the lines above), `Class` to its docstring."""
    source = path.read_text()
    lines = source.splitlines()
    found = {}
    for cls in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        found[cls.name] = ast.get_docstring(cls) or ""
        for node in (node for node in cls.body if isinstance(node, ast.AnnAssign)):
            if isinstance(node.target, ast.Name):
                found[f"{cls.name}.{node.target.id}"] = _comment_at(lines, node.lineno - 1)
    return found


def _comment_at(lines: list[str], at: int) -> str:
    _, mark, words = lines[at].partition("#: ")
    if mark:
        return words.strip()
    above: list[str] = []
    while at > 0 and lines[at - 1].strip().startswith("#: "):
        at -= 1
        above.insert(0, lines[at].strip().removeprefix("#: "))
    return " ".join(above)


# -- command line ------------------------------------------------------------------------------------------------------


def cli_page() -> str:
    words = (
        "# The command line\n\nExit codes: 0 done; 1 it did not work (one sentence on standard error); 2 wrong usage;\n"
        "3 no service runs on this state folder. Options of `rekindle` itself stand before the command; every\n"
        "command has `--help`, and `rekindle --install-completion` teaches the shell to complete them.\n"
    )
    return words + "".join(_commands(typer.main.get_command(app), "rekindle")) + FOOT


def _commands(command: Any, path: str) -> Iterator[str]:
    """Only what every version of Typer has; its own help text changes with it."""
    yield _command(command, path)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not _is_typers_own(one)]
    usage = [path, *(["[OPTIONS]"] if options else []), *(_metavar(one) for one in arguments)]
    if hasattr(command, "commands"):
        usage.append("COMMAND ...")
    rows = [(f"`{_metavar(one)}`", one.help) for one in arguments]
    rows += [(f"`{', '.join(one.opts)}`", _option_help(one)) for one in options]
    table = f"\n{_table(('', ''), rows)}" if rows else ""
    return f"\n## `{path}`\n\n{command.help}\n\n```\n{' '.join(usage)}\n```\n{table}"


def _is_typers_own(option: Any) -> bool:
    return option.name in ("help", "install_completion", "show_completion")


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _option_help(option: Any) -> str:
    shown = option.default not in (None, False) and not callable(option.default)
    return f"{option.help} [default: {option.default}]" if shown else str(option.help)


def main() -> int:
    folder = ROOT / "docs"
    stale = [name for name, text in pages().items() if _text(folder / name) != text]
    if "--check" in sys.argv[1:]:
        for name in stale:
            sys.stderr.write(f"docs/{name} is not what scripts/docs.py writes; run `make docs`\n")
        return bool(stale)
    for name in stale:
        (folder / name).write_text(pages()[name])
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
