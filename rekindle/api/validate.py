"""The model's rules on parsed parameters, reported all at once in the words of the live service (spec §1.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from botocore.model import Shape

from rekindle.api import model
from rekindle.core.errors import Constraint

_NULL = "Member must not be null"
_UNION = "Member must have exactly one of its members set"


def validate(shape: Shape | None, params: Mapping[str, Any], most: Mapping[str, int] | None = None) -> None:
    """Raises Constraint naming every member that breaks a rule, and the rule.

    `most`: by name of a shape, the maximum that the operator has set instead of the model's.
    """
    faults = [] if shape is None else list(_Rules(most or {}).structure(shape, params, ""))
    if faults:
        plural = "" if len(faults) == 1 else "s"
        raise Constraint(f"{len(faults)} validation error{plural} detected: {'; '.join(faults)}")


def missing(path: str) -> Constraint:
    """For a rule of the service that the model does not have: this member is needed here."""
    return Constraint(f"1 validation error detected: {_fault('Value null', path, _NULL)}")


class _Rules:
    """Those of the model, but for some maxima."""

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = most

    def structure(self, shape: Shape, value: Mapping[str, Any], path: str) -> Iterator[str]:
        for name in self._order(shape):
            where = f"{path}{name[0].lower()}{name[1:]}"  # lambda-core's members too (recorded: spec §1.3)
            if value.get(name) is not None:
                yield from self._member(shape.members[name], value[name], where)
            elif name in shape.required_members:
                yield _fault("Value null", where, _NULL)

    def _order(self, shape: Shape) -> Sequence[str]:
        first = model.MISSING_FIRST.get(shape.name, ())
        return [*first, *(name for name in shape.members if name not in first)]

    def _member(self, shape: Shape, value: Any, where: str) -> Iterator[str]:
        for rule in self._broken(shape, value):
            yield _fault(_naming(shape, value), where, rule)
        match shape.type_name:
            case "structure":
                yield from self.structure(shape, value, f"{where}.")
                if shape.is_tagged_union and len(value) != 1:
                    yield _fault(_naming(shape, value), where, _UNION)
            case "list" if shape.member.type_name in ("structure", "list", "map"):
                yield from self._elements(shape.member, value, where)
            case "list":
                yield from self._scalars(shape, shape.member, value, value, where, "Member must satisfy constraint")
            case "map":
                yield from self._scalars(
                    shape, shape.key, list(value), value, where, "Map keys must satisfy constraint"
                )
                yield from self._scalars(
                    shape, shape.value, list(value.values()), value, where, "Map value must satisfy constraint"
                )

    def _elements(self, shape: Shape, values: Sequence[Any], where: str) -> Iterator[str]:
        for number, value in enumerate(values, start=1):
            at = f"{where}.{number}.member"
            if value is None:
                yield _fault("Value null", at, _NULL)
            else:
                yield from self._member(shape, value, at)

    def _scalars(
        self, holder: Shape, shape: Shape, values: Sequence[Any], whole: Any, where: str, rule: str
    ) -> Iterator[str]:
        """Elements that are scalars are reported once, at the collection, with every rule they have."""
        if any(value is None or list(self._broken(shape, value)) for value in values):
            rules = ", ".join([*self._rules(shape), _NULL])
            yield _fault(_naming(holder, whole), where, f"{rule}: [{rules}]")

    def _rules(self, shape: Shape) -> Iterator[str]:
        """Every rule of a scalar shape, in words."""
        data = self._data(shape)
        if "max" in data:
            yield f"Member must have {_quantity(shape)} less than or equal to {data['max']}"
        if "min" in data:
            yield f"Member must have {_quantity(shape)} greater than or equal to {data['min']}"
        if "pattern" in data:
            yield f"Member must satisfy regular expression pattern: {data['pattern']}"
        if "enum" in data:
            yield f"Member must satisfy enum value set: [{', '.join(data['enum'])}]"

    def _data(self, shape: Shape) -> Mapping[str, Any]:
        data: Mapping[str, Any] = shape.metadata
        return {**data, "max": self._most[shape.name]} if shape.name in self._most else data

    def _broken(self, shape: Shape, value: Any) -> Iterator[str]:
        data = self._data(shape)
        size = value if _quantity(shape) == "value" else len(value)
        broken = (
            ("max" in data and size > data["max"]),
            ("min" in data and size < data["min"]),
            ("pattern" in data and model.pattern(data["pattern"]).fullmatch(value) is None),
            ("enum" in data and value not in data["enum"]),
        )
        words = iter(self._rules(shape))
        for rule, is_broken in zip(("max", "min", "pattern", "enum"), broken, strict=True):
            if rule in data:
                text = next(words)
                if is_broken:
                    yield text


def _quantity(shape: Shape) -> str:
    return "value" if shape.type_name in ("integer", "long", "boolean") else "length"


def _fault(naming: str, where: str, rule: str) -> str:
    return f"{naming} at '{where}' failed to satisfy constraint: {rule}"


def _naming(shape: Shape, value: Any) -> str:
    return "Value" if _sensitive(shape) else f"Value '{_shown(value)}'"


def _sensitive(shape: Shape) -> bool:
    if shape.type_name == "map":
        return _sensitive(shape.key) or _sensitive(shape.value)
    return bool(shape.metadata.get("sensitive"))


def _shown(value: Any) -> str:
    """As Java prints it."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(_shown(one) for one in value)}]"
        case dict():
            return "{" + ", ".join(f"{name}={_shown(one)}" for name, one in value.items()) + "}"
        case _:
            return "null" if value is None else str(value)
