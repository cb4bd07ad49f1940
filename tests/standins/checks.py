"""Tables of request fields, and the strict comparison of a request with one."""

from dataclasses import dataclass

TYPES = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "any": (object,)}


@dataclass(frozen=True)
class Field:
    """`low` and `high` are inclusive; `longest` counts characters."""

    kind: str = "string"
    low: float | None = None
    high: float | None = None
    choices: tuple = ()
    required: bool = False
    longest: int | None = None


@dataclass(frozen=True)
class Problem:
    """`rule` is one of missing, unknown, type, enum, low, high, long, invalid; `limit` is what was overstepped."""

    name: str
    rule: str
    message: str
    limit: object = None
    given: object = None


def problems(fields: dict[str, Field], given: dict) -> list[Problem]:
    """Everything wrong with a request's fields, in the table's order, unknown fields last."""
    found = [
        Problem(name, "missing", "Field required")
        for name, field in fields.items()
        if field.required and name not in given
    ]
    found += [
        problem for name, field in fields.items() if name in given for problem in _wrong(name, field, given[name])
    ]
    found += [
        Problem(name, "unknown", "Extra inputs are not permitted", given=given[name])
        for name in given
        if name not in fields
    ]
    return found


def _wrong(name: str, field: Field, value) -> list[Problem]:
    if not _has_type(field.kind, value):
        return [Problem(name, "type", f"Input should be a valid {field.kind}", field.kind, value)]
    if field.choices and value not in field.choices:
        names = ", ".join(repr(choice) for choice in field.choices)
        return [Problem(name, "enum", f"Input should be one of {names}", field.choices, value)]
    if field.low is not None and value < field.low:
        return [Problem(name, "low", f"Input should be greater than or equal to {field.low}", field.low, value)]
    if field.high is not None and value > field.high:
        return [Problem(name, "high", f"Input should be less than or equal to {field.high}", field.high, value)]
    if field.longest is not None and len(value) > field.longest:
        return [
            Problem(
                name, "long", f"Too big: expected string to have <={field.longest} characters", field.longest, value
            )
        ]
    return []


def _has_type(kind: str, value) -> bool:
    if isinstance(value, bool):
        return kind in ("boolean", "any")
    return isinstance(value, TYPES[kind])


def from_text(fields: dict[str, Field], given: dict[str, str]) -> dict:
    """A form's texts turned into the table's types; what cannot be turned stays text and fails the check."""
    return {name: _parsed(fields[name].kind if name in fields else "string", text) for name, text in given.items()}


def _parsed(kind: str, text: str):
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    try:
        return {"integer": int, "number": float}.get(kind, str)(text)
    except ValueError:
        return text
