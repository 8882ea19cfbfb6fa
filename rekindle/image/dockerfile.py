"""The one thing we do to a Dockerfile: drop `--link` from COPY and ADD, which buildah does not know.

`--link` changes only how layers are cached, never what they hold. This is not a Dockerfile parser: it finds
instructions, their flags and here-documents (whose bodies it leaves alone) by the rules of Docker's own line reader,
and takes characters out. Flags that change what a build means and that buildah lacks or ignores are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rekindle.core.errors import BuildFailed

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_INSTRUCTION = re.compile(r"\s*(?:ONBUILD\s+)?(RUN|COPY|ADD)(?=\s)", re.IGNORECASE)
_FLAG = re.compile(r"\s+(--[^\s=]+(?:=(\"[^\"]*\"|'[^']*'|\S)*)?)(?=\s|$)")
_HEREDOC = re.compile(r"\d*<<(-?)([^<]*)")
_SHELL_WORD = re.compile(r"(?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\\.|[^\s\"'\\])+", re.DOTALL)
_SECRET_ENV = re.compile(r"(?:^|,)env=")


@dataclass(frozen=True, slots=True)
class _Logical:
    """One instruction with its continuation lines joined. `at[i]` is where character i stands in the file."""

    text: str
    at: list[int]
    line: int  #: number of its first line, from 1
    next_line: int  #: index of the first line after it


def without_link(source: str) -> str:
    """`source` without the `--link` flags of COPY and ADD; nothing else changes, line numbers included.

    Raises BuildFailed(CONTAINER_BUILD_FAILED) for COPY/ADD `--parents` and `--exclude`, RUN `--security` and
    `--device`, and secrets mounted as variables (`--mount=type=secret,env=`).
    """
    drop: set[int] = set()
    for logical, instruction, end in _instructions(source):
        for flag in _flags(logical.text, end):
            name, _, value = flag.group(1).partition("=")
            _refuse(instruction, name.lower(), value, logical.line)
            if instruction != "RUN" and name.lower() == "--link":
                drop.update(logical.at[flag.start() : flag.end()])
    return "".join(char for index, char in enumerate(source) if index not in drop)


def _flags(text: str, start: int) -> Iterator[re.Match[str]]:
    """The run of `--flags` right after the instruction's name."""
    while flag := _FLAG.match(text, start):
        yield flag
        start = flag.end()


def _refuse(instruction: str, name: str, value: str, line: int) -> None:
    unsupported = {"RUN": ("--security", "--device")}.get(instruction, ("--parents", "--exclude"))
    if name in unsupported:
        raise _unsupported(f"{instruction} {name}", line)
    if instruction == "RUN" and name == "--mount" and "type=secret" in value and _SECRET_ENV.search(value.strip("\"'")):
        raise _unsupported("RUN --mount=type=secret,env=", line)


def _unsupported(what: str, line: int) -> BuildFailed:
    return BuildFailed("CONTAINER_BUILD_FAILED", f"Dockerfile line {line}: {what} is not supported by this builder")


def _instructions(source: str) -> Iterator[tuple[_Logical, str, int]]:
    """Every RUN, COPY and ADD (also behind ONBUILD): the joined line, its name, and where the name ends."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", source)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    escape, index = _escape(lines)
    while index < len(lines):
        if _is_blank_or_comment(lines[index]):
            index += 1
            continue
        logical = _join(lines, starts, index, escape)
        index = logical.next_line
        if match := _INSTRUCTION.match(logical.text):
            yield logical, match.group(1).upper(), match.end()
            index = _after_heredocs(lines, index, logical.text[match.end() :])


def _escape(lines: list[str]) -> tuple[str, int]:
    """The escape character that the parser directives at the top name, and the line after them."""
    escape = "\\"
    for index, line in enumerate(lines):
        directive = _DIRECTIVE.fullmatch(line.lstrip("\ufeff").rstrip("\r\n"))
        if not directive:
            return escape, index
        if directive.group(1).lower() == "escape" and directive.group(2) in ("\\", "`"):
            escape = directive.group(2)
    return escape, len(lines)


def _is_blank_or_comment(line: str) -> bool:
    stripped = line.strip()
    return not stripped or stripped.startswith("#")


def _join(lines: list[str], starts: list[int], first: int, escape: str) -> _Logical:
    continuation = re.compile(rf"(?:^|(?<=[^{re.escape(escape)}])){re.escape(escape)}[ \t]*\r?\n?$")
    chars: list[str] = []
    at: list[int] = []
    index = first
    while index < len(lines):
        line, start = lines[index], starts[index]
        index += 1
        if at and _is_blank_or_comment(line):
            continue
        more = continuation.search(line)
        kept = line[: more.start()] if more else line.rstrip("\r\n")
        chars.append(kept)
        at.extend(range(start, start + len(kept)))
        if not more:
            break
    return _Logical("".join(chars), at, first + 1, index)


def _after_heredocs(lines: list[str], index: int, rest: str) -> int:
    """The index of the first line behind the bodies of the here-documents that `rest` opens."""
    for word in _SHELL_WORD.findall(rest):
        heredoc = _HEREDOC.fullmatch(word)
        name = re.sub(r"[\"'\\]", "", heredoc.group(2)) if heredoc else ""
        if not heredoc or not name:
            continue
        while index < len(lines):
            line = lines[index].rstrip("\r\n")
            index += 1
            if (line.lstrip("\t") if heredoc.group(1) else line) == name:
                break
    return index
