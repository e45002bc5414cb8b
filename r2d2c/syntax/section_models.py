"""The sections of a spec as pydantic models, and the one table that lists them.

The models hold expressions as `YScalar`, so that every part of them keeps its place; what they say about
keys, kinds of values and words is also the JSON Schema for editors. A validator raises `PydanticCustomError`
with the code of a diagnostic as its type; `sections.validate` finds the place.

Another section is a model here (if it has keys of its own), a record in `sections.py` and a row in
`SECTIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    create_model,
)
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


def _whole(minimum: int) -> Callable[[object], int]:
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


def _version(value: object) -> int:
    number = plain_value(_scalar(value, "the version of the language"))
    if number != 1 or isinstance(number, bool):
        raise wrong(
            "E155", f"this compiler reads version 1 of the language, not {_found(value)}", "write 1 here"
        )
    return 1


def _own(value: object) -> str:
    if _scalar(value, "`own`").value != "own":
        raise wrong(
            "E156", f"only `own` can stand here, not {_found(value)}", "write `own`, or remove the key"
        )
    return "own"


def _dim(value: object) -> YScalar:
    scalar = _scalar(value, "a size")
    found = sections.RANGE.fullmatch(scalar.value)
    if found and not 0 <= int(found[1]) <= int(found[2]):
        raise wrong("E159", f"the range {scalar.value} is empty", "the first bound is the smaller one")
    size = plain_value(scalar)
    if isinstance(size, bool | float):
        raise wrong("E159", f"a size is a whole number, not {_found(value)}", "not a size")
    if isinstance(size, int) and size < 1:
        raise wrong("E159", f"a size is at least 1, not {size}", "not a size")
    return scalar


def _block(value: object) -> object:
    return {"body": value} if isinstance(value, YScalar) else value


class _OrText:
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
Text: TypeAlias = Annotated[str, BeforeValidator(_text)]
Name: TypeAlias = Annotated[
    str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})
]
# A key is a string already; dict keys have their own errors, whose place is the key.
NameKey: TypeAlias = Annotated[
    str, BeforeValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})
]


class _Model(BaseModel):
    # Deferred, so that the parts are built once, inside the spec, and the library only when one is read.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)


class BlockModel(_Model):
    """A parametrised piece of behavior, used by name as often as wanted."""

    doc: Text | None = Field(None, description="What the block is for.")
    body: Expression = Field(description="The statements of the block; `return` gives its result.")


class TaskModel(_Model):
    """A behavior, what it is asked for, and how far it is from that."""

    behavior: Expression = Field(description="What the task computes, as statements that name its values.")
    representative: Expression | None = Field(
        None, description="What the task is asked for, computed from the target of the tasks it feeds."
    )
    distance: Expression | None = Field(None, description="The task's loss, such as `mse(h, r)`.")
    teach: Expression | None = Field(
        None,
        description="What trains the representative, such as `encode + classify`; default: own + downstream.",
    )
    keep: Annotated[Literal["own"], BeforeValidator(_own)] | None = Field(
        None, description="`own` keeps the task's own distance under credit rules that would drop it."
    )
    weight: Expression | None = Field(None, description="What the task's loss is multiplied with.")
    doc: Text | None = Field(None, description="What the task is for.")


class LinkModel(_Model):
    """What a value that one task passes to another brings back, and what is passed in training."""

    credit: Expression | None = Field(None, description="The credit rule: `backprop`, `local`, …")
    feed: Expression | None = Field(None, description="What the receiving task reads in training.")


class LossModel(_Model):
    """A further named loss; neither it nor its body is part of inference or export."""

    value: Expression = Field(description="The loss, one number.")
    body: Expression | None = Field(None, description="Statements before it: heads that only training has.")
    weight: Expression | None = Field(None, description="What the loss is multiplied with.")
    doc: Text | None = Field(None, description="What the loss is for.")


class TrainModel(_Model):
    """How `r2d2c train` trains; every key can be given on the command line instead."""

    data: Text | None = Field(
        None, description="A data source: `digits`, `idx:FOLDER`, `npz:FILE`, `csv:FILE`, …"
    )
    epochs: Annotated[int, Field(ge=0), BeforeValidator(_whole(0))] | None = Field(
        None, description="Passes over the data."
    )
    batch_size: Annotated[int, Field(ge=1), BeforeValidator(_whole(1))] | None = Field(
        None, description="Samples in a batch."
    )
    optimizer: Expression | None = Field(None, description="An optimizer, such as `adam(lr=2e-3)`.")
    schedule: Expression | None = Field(None, description="How the learning rate changes, such as `cosine`.")
    rates: dict[str, Factor] | None = Field(
        None,
        description="Factors on the learning rate, by the beginning of parameters' names: `encode.r: 0.1`.",
    )
    seed: Annotated[int, Field(ge=0), BeforeValidator(_whole(0))] | None = Field(
        None, description="Where all random numbers come from."
    )
    metrics: list[Expression] | None = Field(
        None, description="What is measured on the composed model, such as `accuracy(logits, y)`."
    )
    split: Expression | None = Field(
        None, description="The share of the training data that is held out for validation."
    )
    monitor: Expression | None = Field(None, description="The metric that decides which checkpoint is best.")


@dataclass(frozen=True, slots=True)
class Section:
    """One top-level key: its type, the word for one entry in messages, and how its record is built.

    ``record`` is the class of the entries (or of the section itself where `one` is empty); ``field`` names
    the record's field that takes a value which has no keys of its own.
    """

    name: str
    type: Any
    doc: str
    one: str = ""
    record: type[Any] | None = None
    field: str = ""
    model: type[BaseModel] | None = None
    required: bool = False


SECTIONS: tuple[Section, ...] = (
    Section(
        "r2d2c",
        Annotated[Literal[1], BeforeValidator(_version)],
        "The version of the language: 1.",
        required=True,
    ),
    Section("model", Name, "The name of the model."),
    Section("doc", Text, "What the model is for."),
    Section(
        "dims",
        dict[NameKey, Size],
        "Named sizes: a number, `infer`, a range `1..8` or arithmetic such as `2*H`.",
        one="dim",
        record=sections.Dim,
        field="value",
    ),
    Section("imports", list[Path], "Files to take blocks from: `std/…`, or relative to this file."),
    Section(
        "inputs", dict[NameKey, Expression], "Typed inputs.", one="input", record=sections.Port, field="value"
    ),
    Section(
        "targets",
        dict[NameKey, Expression],
        "Typed targets; they never reach inference.",
        one="target",
        record=sections.Port,
        field="value",
    ),
    Section(
        "blocks",
        dict[str, Annotated[BlockModel, BeforeValidator(_block), _OrText()]],
        "Blocks by their signature, such as `residual(x, width)`.",
        one="block",
        record=sections.Block,
        model=BlockModel,
    ),
    Section(
        "tasks",
        Annotated[dict[NameKey, TaskModel], Field(min_length=1)],
        "The tasks.",
        one="task",
        record=sections.Task,
        model=TaskModel,
        required=True,
    ),
    Section(
        "links",
        dict[str, LinkModel],
        "What comes back along an edge between tasks, by `task.value -> task`.",
        one="link",
        record=sections.Link,
        model=LinkModel,
    ),
    Section(
        "losses",
        dict[NameKey, LossModel],
        "Further losses.",
        one="loss",
        record=sections.Loss,
        model=LossModel,
    ),
    Section(
        "outputs",
        Annotated[dict[NameKey, Expression], Field(min_length=1)],
        "What the model returns.",
        one="output",
        record=sections.Output,
        field="value",
        required=True,
    ),
    Section("credit", Expression, "The credit rule of links that name none."),
    Section("train", TrainModel, "Defaults for training.", record=sections.Train, model=TrainModel),
)


def _spec_model(name: str, required: Callable[[Section], bool], doc: str) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for section in SECTIONS:
        if required(section):
            fields[section.name] = (section.type, Field(description=section.doc))
        else:
            fields[section.name] = (section.type | None, Field(None, description=section.doc))
    return create_model(name, __base__=_Model, __doc__=doc, **fields)


SpecModel = _spec_model("Spec", lambda s: s.required, "A spec of r2d2c.")
# A file that others import needs nothing but its version.
LibraryModel = _spec_model("Library", lambda s: s.name == "r2d2c", "A file of blocks to import.")
