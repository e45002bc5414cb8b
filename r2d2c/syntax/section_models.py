"""The sections of a spec as pydantic models, and the one table that lists them.

The models hold expressions as `YScalar`, so that every part of them keeps its place; what they say about
keys, kinds of values and words is also the JSON Schema for editors. A validator raises `PydanticCustomError`
with the code of a diagnostic as its type; `sections.validate` finds the place.

Another section is a model here (if it has keys of its own), a record in `sections.py` and a row in
`SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from r2d2c.syntax import sections
from r2d2c.syntax.section_values import (
    Expression,
    Expressions,
    Flag,
    Model,
    Name,
    NameKey,
    OrText,
    Path,
    Size,
    Text,
    one_of,
    text_as,
    version,
)
from r2d2c.syntax.train_model import TrainModel


class BlockModel(Model):
    """A parametrised piece of behavior, used by name as often as wanted."""

    doc: Text | None = Field(None, description="What the block is for.")
    body: Expression = Field(description="The statements of the block; `return` gives its result.")


class TaskModel(Model):
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
    keep: Annotated[Literal["own"], BeforeValidator(one_of("own"))] | None = Field(
        None, description="`own` keeps the task's own distance under credit rules that would drop it."
    )
    weight: Expression | None = Field(None, description="What the task's loss is multiplied with.")
    doc: Text | None = Field(None, description="What the task is for.")


class LinkModel(Model):
    """What a value that one task passes to another brings back, and what is passed in training."""

    credit: Expression | None = Field(None, description="The credit rule: `backprop`, `local`, …")
    feed: Expression | None = Field(None, description="What the receiving task reads in training.")


class LossModel(Model):
    """A further named loss; neither it nor its body is part of inference or export."""

    value: Expression = Field(description="The loss, one number.")
    steps: Expression | None = Field(
        None, description="The steps of a loop at which it is taken, `2..depth`; `.steps` is the value there."
    )
    body: Expression | None = Field(None, description="Statements before it: heads that only training has.")
    weight: Expression | None = Field(None, description="What the loss is multiplied with.")
    doc: Text | None = Field(None, description="What the loss is for.")


class CarryModel(Model):
    """A value that a loop carries from step to step."""

    value: Expression = Field(description="Its type and where it starts: `f32[B, S] = zeros`.")
    credit: Expression | None = Field(
        None, description="What comes back over a step: `backprop`, `truncate(k)`, `local` or `eprop`."
    )


Carry = Annotated[CarryModel, BeforeValidator(text_as("value")), OrText()]


class LoopModel(Model):
    """A body that is repeated, and what it carries from step to step."""

    repeat: Expression | None = Field(None, description="How often: a number, or a dim such as `depth`.")
    over: Expression | None = Field(None, description="The dim that `each` has an element of for every step.")
    until: Expression | None = Field(
        None, description="A value of the body that says when a sample has halted: a probability or a bool."
    )
    max: Expression | None = Field(None, description="With `until`: the most steps.")
    epsilon: Expression | None = Field(
        None, description="With `until`: a sample halts when its probabilities sum to 1 - epsilon."
    )
    each: dict[NameKey, Expression] | None = Field(
        None, description="What is read one element a step: `xt: x`."
    )
    carry: dict[NameKey, Carry] | None = Field(
        None, description="What is carried: its type and its initial value, `f32[B, S] = learned`."
    )
    widths: dict[NameKey, Expressions] | None = Field(
        None, description="Carried values that also work with the first part of their coordinates alone."
    )
    parameters: (
        Annotated[Literal["shared", "per_step"], BeforeValidator(one_of("shared", "per_step"))] | None
    ) = Field(None, description="`per_step` gives every step parameters of its own.")
    recompute: Flag | None = Field(
        None,
        description="Compute the inside of a step again for its backward, and store only what is carried.",
    )
    stateful: Flag | None = Field(
        None,
        description="What it carries is the model's state, which goes in and comes out: `model(x=x, state=s)`.",
    )
    body: Expression = Field(description="The statements of one step.")
    doc: Text | None = Field(None, description="What the loop is for.")


class HypernetModel(Model):
    """What generates the parameters of an op, or of all ops of a block, for every sample."""

    makes: Expression = Field(description="The op or block whose parameters it generates: `linear(V)`.")
    mode: Expression | None = Field(None, description="`full`, `factors`, `scale` or `shared`.")
    hidden: Expression | None = Field(None, description="Width of the generator's hidden layer.")
    act: Expression | None = Field(None, description="The hidden layer's activation.")
    rank: Expression | None = Field(None, description="With `factors`: the rank of a generated matrix.")
    base: Expression | None = Field(None, description="Whether shared parameters are added.")
    chunks: Expression | None = Field(None, description="Into how many parts a full generation is split.")
    normalise: Expression | None = Field(None, description="What is done to generated matrices.")
    doc: Text | None = Field(None, description="What the hypernet is for.")


class MemoryModel(Model):
    """A store of slots that a loop writes and reads; one for every sample, unless it is shared."""

    slots: Expression = Field(description="How many slots it has: a number or a dim.")
    fields: Annotated[dict[NameKey, Expression], Field(min_length=1)] = Field(
        description="What a slot holds: `state: f32[S]`."
    )
    replace: Expression | None = Field(
        None,
        description="Which slot a write replaces: `argmin(surprise)` or of any expression of its fields and its `age`,"
        " `argmax(…)`, `oldest`, `ring` or `random`.",
    )
    when: Expression | None = Field(
        None, description="Whether it is written at all: `surprise > replaced.surprise`."
    )
    each_slot: Expression | None = Field(
        None,
        description="Statements that are computed for every slot, from its fields: `rep = cell(state, token)`.",
    )
    credit: Expression | None = Field(
        None, description="What comes back to what was written: `local` (nothing), or `backprop`."
    )
    shared: Flag | None = Field(
        None, description="One store for all samples, whose fields are trained; it is not written."
    )
    doc: Text | None = Field(None, description="What the memory is for.")


class GrowModel(Model):
    """How an op graph changes while it is trained."""

    every: Expression = Field(
        description="When: `epochs(1)`, `steps(200)`, or `plateau(3)`, as many epochs without progress."
    )
    add: Expression | None = Field(None, description="How many random ops are added each time.")
    prune: Expression | None = Field(None, description="How many ops are removed each time.")
    split: Expression | None = Field(None, description="How many ops are split in two each time.")
    merge: Expression | None = Field(
        None, description="How many ops at most are merged with one that computes the same each time."
    )
    by: Expression | None = Field(
        None,
        description="What an op is worth: `effect`, `saliency`, `magnitude`, `taylor`, or an expression of scores.",
    )
    below: Expression | None = Field(None, description="Only ops that are worth less are removed.")
    compensate: Flag | None = Field(
        None, description="Whether read-outs make up for what is removed, in least squares."
    )
    refit: Flag | None = Field(
        None, description="Whether a round first moves the read-outs to where the loss is least."
    )
    whole: Flag | None = Field(
        None,
        description="Whether an op that others use may go, with all that depends on it; else only leaves go.",
    )
    prefer: Expression | None = Field(
        None,
        description="Which arguments new ops get: `any`, `gradient`, where much is to gain, `near` in space, or `shallow`.",
    )
    reach: Expression | None = Field(None, description="With `near`: how far is near.")
    wire: Expression | None = Field(
        None,
        description="Which columns a new op may read, by their places and its own: `step == 1 and plane <= 1`.",
    )
    frozen: list[Expression] | None = Field(
        None, description="Ops that stay as they are, by name, or `all` that there are at first."
    )
    depth: Expression | None = Field(None, description="The most ops in a row.")
    epochs: Expression | None = Field(None, description="The epoch after which it stays as it is.")
    settle: Expression | None = Field(
        None, description="How many epochs before that nothing is added any more."
    )


class OpGraphModel(Model):
    """Small ops on columns and on each other, wired one by one, that grow and are pruned."""

    ops: list[Expression] | None = Field(
        None, description="The kinds of ops that may grow: `[add, mul, gauss]`."
    )
    capacity: Expression = Field(description="The most ops there may ever be.")
    start: Expression | None = Field(None, description="How many random ops there are at first.")
    nodes: dict[NameKey, Expression] | None = Field(
        None, description="Ops by name: `o1: o0 * p`, of columns `x[0]`, other ops and trained numbers `p`."
    )
    normalise: Expression | None = Field(
        None,
        description="How values of ops are normalised: `batch` (with running statistics), `layer` (over ops) or `none`.",
    )
    places: Expression | None = Field(None, description="Where its input columns are: the name of `places`.")
    grow: GrowModel | None = Field(None, description="How it changes while it is trained.")
    doc: Text | None = Field(None, description="What the op graph is for.")


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
        Annotated[Literal[1], BeforeValidator(version)],
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
        "places",
        dict[NameKey, Expression],
        "Sets of points in R^3, such as `grid(8, 8)`.",
        one="set of places",
        record=sections.Places,
        field="value",
    ),
    Section(
        "blocks",
        dict[str, Annotated[BlockModel, BeforeValidator(text_as("body")), OrText()]],
        "Blocks by their signature, such as `residual(x, width)`.",
        one="block",
        record=sections.Block,
        model=BlockModel,
    ),
    Section(
        "hypernets",
        dict[NameKey, HypernetModel],
        "What generates parameters, for every sample.",
        one="hypernet",
        record=sections.Hypernet,
        model=HypernetModel,
    ),
    Section(
        "memories",
        dict[NameKey, MemoryModel],
        "Stores of slots that loops write and read.",
        one="memory",
        record=sections.Memory,
        model=MemoryModel,
    ),
    Section(
        "op_graphs",
        dict[NameKey, OpGraphModel],
        "Ops on columns and on each other, that grow and are pruned.",
        one="op graph",
        record=sections.OpGraph,
        model=OpGraphModel,
    ),
    Section(
        "loops",
        dict[str, LoopModel],
        "Loops by their signature, such as `refine(data)`.",
        one="loop",
        record=sections.Loop,
        model=LoopModel,
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
    return create_model(name, __base__=Model, __doc__=doc, **fields)


SpecModel = _spec_model("Spec", lambda s: s.required, "A spec of r2d2c.")
# A file that others import needs nothing but its version.
LibraryModel = _spec_model("Library", lambda s: s.name == "r2d2c", "A file of blocks to import.")
