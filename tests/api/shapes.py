"""Hypothesis strategies made from the model's shapes: values that obey it, in every corner of it."""

from __future__ import annotations

from typing import Any

from botocore.model import Shape
from hypothesis import strategies as st

TEXT = st.characters(exclude_categories=["Cs"])
#: A millisecond is an exact fraction only up to here; far beyond any date that matters.
INSTANTS_MS = st.integers(0, 4_000_000_000_000)


def values(shape: Shape, *, smallest: int = 0) -> st.SearchStrategy[Any]:
    match shape.type_name:
        case "structure":
            return structures(shape)
        case "list":
            return st.lists(values(shape.member), min_size=smallest, max_size=3)
        case "map":
            return st.dictionaries(values(shape.key), values(shape.value), max_size=3)
        case "integer" | "long":
            return st.integers(shape.metadata.get("min", -1000), shape.metadata.get("max", 2**31 - 1))
        case "boolean":
            return st.booleans()
        case "timestamp":
            return INSTANTS_MS
        case "string":
            return texts(shape)
    raise NotImplementedError(shape.type_name)


def texts(shape: Shape) -> st.SearchStrategy[str]:
    if "enum" in shape.metadata:
        return st.sampled_from(shape.metadata["enum"])
    return st.text(TEXT, min_size=shape.metadata.get("min", 0), max_size=40)


def structures(shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    members = {name: values(member, smallest=_smallest(member)) for name, member in shape.members.items()}
    if shape.is_tagged_union:
        return st.one_of(*(st.fixed_dictionaries({name: made}) for name, made in members.items()))
    required = {name: made for name, made in members.items() if name in shape.required_members}
    optional = {name: made for name, made in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def _smallest(member: Shape) -> int:
    """An empty list in a query string cannot be told from none."""
    return 1 if member.serialization.get("location") == "querystring" else 0
