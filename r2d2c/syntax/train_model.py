"""The `train:` section of a spec as a pydantic model; see `section_models`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from r2d2c.syntax.section_values import (
    Expression,
    Expressions,
    Factor,
    Model,
    NameKey,
    OrText,
    Text,
    one_of,
    text_as,
    whole,
)


class TrainModel(Model):
    """How `r2d2c train` trains; every key can be given on the command line instead."""

    data: Text | None = Field(
        None, description="A data source: `digits`, `idx:FOLDER`, `npz:FILE`, `csv:FILE`, …"
    )
    columns: dict[NameKey, Expressions] | None = Field(
        None,
        description="The columns of the data that a port takes, where names differ: `x: [acid, sugar]`, `y: quality`.",
    )
    augment: dict[NameKey, Expression] | None = Field(
        None,
        description="What is done to a port's samples in training, anew in each epoch: `x: crop(pad=2) |> flip`.",
    )
    workers: Annotated[int, Field(ge=0), BeforeValidator(whole(0))] | None = Field(
        None, description="Processes that read and augment the training data; 0: the training itself does."
    )
    epochs: Annotated[int, Field(ge=0), BeforeValidator(whole(0))] | None = Field(
        None, description="Passes over the data."
    )
    batch_size: Annotated[int, Field(ge=1), BeforeValidator(whole(1))] | None = Field(
        None, description="Samples in a batch."
    )
    optimizer: Expression | None = Field(None, description="An optimizer, such as `adam(lr=2e-3)`.")
    schedule: Expression | None = Field(None, description="How the learning rate changes, such as `cosine`.")
    optimizers: dict[str, Expression] | None = Field(
        None,
        description="Other optimizers for some parameters, by the beginning of their names: `encode.r: adam(lr=1e-4)`.",
    )
    no_decay: Expressions | None = Field(
        None,
        description="Parameters without weight decay, by the beginning of their names, or `bias`, `norm`, `vectors`.",
    )
    clip: Annotated[dict[str, Expression], BeforeValidator(text_as("")), OrText()] | None = Field(
        None,
        description="A bound for the norm of all gradients, `1.0`, or `value(0.1)` for each entry; or one for each of some names.",
    )
    accumulate: Annotated[int, Field(ge=1), BeforeValidator(whole(1))] | None = Field(
        None, description="Batches whose gradients make one step of the optimizers."
    )
    precision: (
        Annotated[Literal["f32", "bf16", "fp16"], BeforeValidator(one_of("f32", "bf16", "fp16"))] | None
    ) = Field(
        None,
        description="What numbers the products of learning and evaluation are made in: `f32`, `bf16` or `fp16`.",
    )
    early_stop: Annotated[int, Field(ge=1), BeforeValidator(whole(1))] | None = Field(
        None, description="Epochs without progress of the monitor after which training stops."
    )
    rates: dict[str, Factor] | None = Field(
        None,
        description="Factors on the learning rate, by the beginning of parameters' names: `encode.r: 0.1`.",
    )
    sizes: dict[NameKey, Expression] | None = Field(
        None,
        description="Run-time dims in training, such as `depth: 3`, or `depth: 1..4` for another one every batch.",
    )
    chunk: Annotated[int, Field(ge=1), BeforeValidator(whole(1))] | None = Field(
        None,
        description="Steps of a sequence in a learning pass: longer ones are learned in parts, and the state goes on.",
    )
    seed: Annotated[int, Field(ge=0), BeforeValidator(whole(0))] | None = Field(
        None, description="Where all random numbers come from."
    )
    metrics: list[Expression] | None = Field(
        None, description="What is measured on the composed model, such as `accuracy(logits, y)`."
    )
    split: Expression | None = Field(
        None, description="The share of the training data that is held out for validation."
    )
    monitor: Expression | None = Field(None, description="The metric that decides which checkpoint is best.")
