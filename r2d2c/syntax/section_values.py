"""What a value in a spec may be, as types that pydantic validates: expressions, sizes, names, numbers.

A validator raises `PydanticCustomError` with the code of a diagnostic as its type; `sections.validate` finds the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import PydanticCustomError

from r2d2c.syntax import sections
from r2d2c.syntax.yaml_nodes import YMap, YScalar, YSeq, describe, plain_value

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
RESERVED = ("and", "or", "not", "return", "true", "false")


def wrong(code: str, message: str, label: str = "", fix: str | None = None) -> PydanticCustomError:
    """A mistake in our words, on its way through pydantic."""
    # Pydantic formats the template, so the message travels beside it.
    return PydanticCustomError(code, "wrong", {"message": message, "label": label, "fix": fix})


def _found(value: object) -> str:
    if isinstance(value, dict):
        return "a map"
    return describe(value) if isinstance(value, YMap | YSeq | YScalar) else "a list"


def _scalar(value: object, expected: str) -> YScalar:
    if not isinstance(value, YScalar):
        raise wrong("E152", f"expected {expected}, found {_found(value)}", f"expected {expected}")
    if value.is_empty or plain_value(value) is None:
        raise wrong("E160", f"{expected} is missing here", f"expected {expected}")
    return value


def _expression(value: object) -> YScalar:
    scalar = _scalar(value, "an expression")
    if scalar.style != "|" and re.search(r"#[^\n]*\n[ \t\r]*\S", scalar.content.text):
        raise wrong(
            "E158",
            "this `#` makes a comment of all lines after it",
            "YAML joins the lines of this text into one",
            "use `key: |`, which keeps the lines apart",
        )
    return scalar


def _text(value: object) -> str:
    return _scalar(value, "a text").value


def whole(minimum: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = plain_value(_scalar(value, "a whole number"))
        if isinstance(number, bool) or not isinstance(number, int):
            raise wrong("E152", f"expected a whole number, found {_found(value)}", "expected a whole number")
        if number < minimum:
            raise wrong("E156", f"{number} is too small", f"the least is {minimum}")
        return number

    return check


def check_name(text: str) -> str:
    """A name as expressions can use it."""
    if text in RESERVED:
        raise wrong("E154", f"`{text}` is a word of the language, so nothing can be called that", "rename it")
    if not re.fullmatch(NAME, text):
        name = re.sub(r"\W", "_", text.strip(), flags=re.ASCII)
        name = f"_{name}" if name[:1].isdigit() else name
        fix = f"for example `{name}`" if re.fullmatch(NAME, name) and name not in RESERVED else None
        raise wrong("E153", f"`{text}` is not a name: letters, digits and `_`, not a digit first", "", fix)
    return text


def _name(value: object) -> str:
    return check_name(_scalar(value, "a name").value)


def version(value: object) -> int:
    number = plain_value(_scalar(value, "the version of the language"))
    if number != 1 or isinstance(number, bool):
        raise wrong(
            "E155", f"this compiler reads version 1 of the language, not {_found(value)}", "write 1 here"
        )
    return 1


def one_of(*words: str) -> Callable[[object], str]:
    """A validator that takes one of some words."""
    shown = " or ".join(f"`{word}`" for word in words)

    def check(value: object) -> str:
        found = _scalar(value, shown).value
        if found not in words:
            remedy = f"write {shown}, or remove the key"
            only = "only " if len(words) == 1 else ""
            raise wrong("E156", f"{only}{shown} can stand here, not {_found(value)}", remedy)
        return found

    return check


def flag(value: object) -> bool:
    """True or false."""
    found = plain_value(_scalar(value, "`true` or `false`"))
    if not isinstance(found, bool):
        raise wrong(
            "E152", f"expected `true` or `false`, found {_found(value)}", "expected `true` or `false`"
        )
    return found


def _dim(value: object) -> YScalar:
    scalar = _scalar(value, "a size")
    found = sections.RANGE.fullmatch(scalar.value)
    if found and not 0 <= int(found[1]) <= int(found[2]):
        raise wrong("E159", f"the range {scalar.value} is empty", "the first bound is the smaller one")
    if found and found[3] and not int(found[1]) <= int(found[3]) <= int(found[2]):
        raise wrong("E159", f"the usual size {found[3]} is outside of the range", "a size within the range")
    size = plain_value(scalar)
    if isinstance(size, bool | float):
        raise wrong("E159", f"a size is a whole number, not {_found(value)}", "not a size")
    if isinstance(size, int) and size < 1:
        raise wrong("E159", f"a size is at least 1, not {size}", "not a size")
    return scalar


def text_as(key: str) -> Callable[[object], object]:
    """A validator that takes a text as the map with that one key."""
    return lambda value: {key: value} if isinstance(value, YScalar) else value


def _expressions(value: object) -> list[object]:
    """One expression, or a list of them."""
    return value if isinstance(value, list) else [value]


class OrText:
    """In the JSON Schema, a text may stand for the whole map."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


_SCALAR = {"type": ["string", "number", "boolean"]}
Expression: TypeAlias = Annotated[YScalar, BeforeValidator(_expression), WithJsonSchema(_SCALAR)]
Factor: TypeAlias = Annotated[
    YScalar,
    BeforeValidator(_expression),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
]
Size: TypeAlias = Annotated[
    YScalar,
    BeforeValidator(_dim),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}),
]
Path: TypeAlias = Annotated[
    YScalar, BeforeValidator(lambda v: _scalar(v, "the path of a spec")), WithJsonSchema({"type": "string"})
]
Expressions: TypeAlias = Annotated[
    list[Expression],
    BeforeValidator(_expressions),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}),
]
Flag: TypeAlias = Annotated[bool, BeforeValidator(flag), WithJsonSchema({"type": "boolean"})]
Text: TypeAlias = Annotated[str, BeforeValidator(_text)]
Name: TypeAlias = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})
]
# A key is a string already; dict keys have their own errors, whose place is the key.
NameKey: TypeAlias = Annotated[
    str, BeforeValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})
]


class Model(BaseModel):
    """The base of all sections."""

    # Deferred, so that the parts are built once, inside the spec, and the library only when one is read.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)
