"""Texts of a policy that stand for many: wildcards and policy variables (IAM user guide, "Policy variables").

A wildcard is one only where the policy writes it: what a variable brings in is taken literally. The time of a match
grows with the lengths of pattern and text alone, whatever they hold: callers choose the texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from rekindle.core.errors import Invalid

#: Condition keys in lower case; a key that has several values has a tuple of them.
Context = Mapping[str, str | tuple[str, ...]]

_VARIABLE = re.compile(r"\$\{\s*(?P<name>[^},'\s]+)\s*(?:,\s*'(?P<default>[^'}]*)'\s*)?\}")
_ITSELF = ("*", "?", "$")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a pattern: text, or a variable's name with what stands for it when the request has it not."""

    text: str
    wild: bool  #: its `*` and `?` are wildcards
    variable: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """One text with wildcards (`*` is any run of characters, `?` any one) and variables."""

    pieces: tuple[Piece, ...]
    whole: re.Pattern[str] | None  #: ready, when there are no variables
    ignore_case: bool

    def matches(self, text: str, context: Context) -> bool | None:
        """None: it names a variable that the request does not have."""
        if self.whole is not None:
            return self.whole.fullmatch(text) is not None
        parts = []
        for piece in self.pieces:
            value = context.get(piece.text.lower(), piece.default) if piece.variable else piece.text
            if not isinstance(value, str):
                return None
            parts.append((value, piece.wild))
        return _compiled(tuple(parts), self.ignore_case).fullmatch(text) is not None

    def variables(self) -> frozenset[str]:
        """The condition keys it names, in lower case."""
        return frozenset(piece.text.lower() for piece in self.pieces if piece.variable)


def pattern(
    text: str, where: str, *, variables: bool = True, wildcards: bool = True, ignore_case: bool = False
) -> Pattern:
    """Read a pattern; `variables` and `wildcards` say what has a meaning in it. Raises Invalid naming `where`."""
    pieces = _pieces(text, where, wildcards) if variables else (Piece(text, wildcards),)
    whole = None
    if not any(piece.variable for piece in pieces):
        whole = _compiled(tuple((piece.text, piece.wild) for piece in pieces), ignore_case)
    return Pattern(pieces, whole, ignore_case)


def like(text: str, pattern_text: str) -> bool:
    """Whether `text` matches a pattern without variables."""
    return _compiled(((pattern_text, True),), False).fullmatch(text) is not None


def _pieces(text: str, where: str, wildcards: bool) -> tuple[Piece, ...]:  # noqa: FBT001  # passed on
    """Text and variables in turn; `${*}`, `${?}` and `${$}` are those characters themselves."""
    pieces, done = [], 0
    for match in _VARIABLE.finditer(text):
        pieces.append(Piece(text[done : match.start()], wildcards))
        name, default = match["name"], match["default"]
        variable = name not in _ITSELF or default is not None
        pieces.append(Piece(name, wild=False, variable=variable, default=default))
        done = match.end()
    pieces.append(Piece(text[done:], wildcards))
    if "${" in _VARIABLE.sub("", text):
        raise Invalid(f"{where}: '{text}' must spell its variables ${{aws:username}} or ${{aws:username, 'x'}}")
    return tuple(piece for piece in pieces if piece.text)


@lru_cache(maxsize=4096)
def _compiled(parts: tuple[tuple[str, bool], ...], ignore_case: bool) -> re.Pattern[str]:  # noqa: FBT001
    """`parts`: (text, whether its `*` and `?` are wildcards).

    Each run between two `*` is matched at its first place and never tried at another (`(?>...)`): the first place is
    as good as any later one, and going back would take time that grows with a power of the text's length.
    """
    runs = [""]
    for text, wildcards in parts:
        for char in text:
            if wildcards and char == "*":
                runs.append("")
            else:
                runs[-1] += "." if wildcards and char == "?" else re.escape(char)
    first, *rest = runs
    middle = "".join(f"(?>.*?{run})" for run in rest[:-1] if run)
    expression = first + (f"{middle}.*{rest[-1]}" if rest else "")
    return re.compile(expression, re.DOTALL | (re.IGNORECASE | re.ASCII if ignore_case else 0))
