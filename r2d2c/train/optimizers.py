"""torch's optimizers by their names, and the checks of their arguments, which need no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.diagnostics import Fix, Sink, suggest
from r2d2c.source import Span
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

RESERVED = ("params", "foreach", "fused", "capturable", "differentiable")
"""Arguments of torch's that say how to run, not what to compute: r2d2c chooses them."""

COUNTERS = frozenset({"step", "mu_product", "eta", "mu"})
"""State that is one number a parameter; all other state of the optimizers below has the parameter's shape."""


@dataclass(frozen=True, slots=True)
class OptimizerRecord:
    """One optimizer: torch's class by its name in `torch.optim`, and its arguments with torch's own defaults.

    ``elementwise``: each element's step depends on that element alone, so parameters may be laid out as one
    buffer. ``fused``: torch has one kernel for the step. ``matrices_only``: it trains nothing but matrices.
    ``shaped``: its state has the parameter's shape.
    """

    name: str
    torch_class: str
    doc: str
    arguments: Mapping[str, Any]
    elementwise: bool = True
    fused: bool = False
    matrices_only: bool = False
    shaped: bool = True


# A test holds the arguments and defaults against inspect.signature of torch's classes.
OPTIMIZERS: tuple[OptimizerRecord, ...] = (
    OptimizerRecord(
        "sgd",
        "SGD",
        "gradient descent, with momentum if asked",
        {
            "lr": 1e-3,
            "momentum": 0,
            "dampening": 0,
            "weight_decay": 0,
            "nesterov": False,
            "maximize": False,
        },
        fused=True,
    ),
    OptimizerRecord(
        "adam",
        "Adam",
        "momentum over a running deviation",
        {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "amsgrad": False,
            "maximize": False,
            "decoupled_weight_decay": False,
        },
        fused=True,
    ),
    OptimizerRecord(
        "adamw",
        "AdamW",
        "adam with decoupled weight decay",
        {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1e-2,
            "amsgrad": False,
            "maximize": False,
        },
        fused=True,
    ),
    OptimizerRecord(
        "nadam",
        "NAdam",
        "adam with Nesterov's momentum",
        {
            "lr": 2e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "momentum_decay": 4e-3,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
    ),
    OptimizerRecord(
        "radam",
        "RAdam",
        "adam with a rectified variance, so it needs no warmup",
        {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
    ),
    OptimizerRecord(
        "adamax",
        "Adamax",
        "adam with the maximum norm",
        {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False},
    ),
    OptimizerRecord(
        "rmsprop",
        "RMSprop",
        "gradients over their running deviation",
        {
            "lr": 1e-2,
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0,
            "momentum": 0,
            "centered": False,
            "maximize": False,
        },
    ),
    OptimizerRecord(
        "adagrad",
        "Adagrad",
        "gradients over the root of their summed squares",
        {
            "lr": 1e-2,
            "lr_decay": 0,
            "weight_decay": 0,
            "initial_accumulator_value": 0,
            "eps": 1e-10,
            "maximize": False,
        },
        fused=True,
    ),
    OptimizerRecord(
        "adadelta",
        "Adadelta",
        "steps in the units of the parameters, without a rate",
        {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False},
    ),
    OptimizerRecord(
        "rprop",
        "Rprop",
        "steps from the signs of the gradients; for full batches",
        {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50), "maximize": False},
    ),
    OptimizerRecord(
        "asgd",
        "ASGD",
        "gradient descent that also keeps an average",
        {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0, "maximize": False},
    ),
    OptimizerRecord(
        "muon",
        "Muon",
        "orthogonalised momentum, for matrices",
        {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
        },
        elementwise=False,
        matrices_only=True,
    ),
    OptimizerRecord(
        "adafactor",
        "Adafactor",
        "as adam without momentum, with the squares of a matrix kept by row and by column",
        {
            "lr": 1e-2,
            "beta2_decay": -0.8,
            "eps": (None, 1e-3),
            "d": 1.0,
            "weight_decay": 0.0,
            "maximize": False,
        },
        elementwise=False,
        shaped=False,
    ),
)

# torch's others, and why they are not here.
_REFUSED = {
    "lbfgs": "torch's LBFGS computes one loss several times in a step; here every loss has a backward of its own",
    "sparseadam": "torch's SparseAdam is for sparse gradients; here gradients are dense, which adam takes",
}


def check_optimizer(
    name: str,
    arguments: Mapping[str, Any],
    sink: Sink,
    span: Span | None = None,
    spans: Mapping[str, Span] | None = None,
) -> OptimizerRecord | None:
    """The record of an optimizer; reports E530 to E532 and gives None if the name or an argument is at fault.

    ``span`` is the name's place in the spec, ``spans`` those of the arguments. torch is not imported.
    """
    known = {record.name: record for record in OPTIMIZERS}
    if name not in known:
        why = _REFUSED.get(name.lower().replace("_", ""))
        fix = suggest(name.lower(), known) if why is None else None
        sink.report(
            "E530",
            span,
            f"there is no optimizer `{name}`",
            notes=[*([why] if why else []), f"optimizers: {', '.join(known)}"],
            fix=fix,
        )
        return None
    record = known[name]
    places = {key: (spans or {}).get(key, span) for key in arguments}
    return (
        record if check_arguments(f"optimizer `{name}`", arguments, record.arguments, sink, places) else None
    )


def check_arguments(
    what: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    sink: Sink,
    spans: Mapping[str, Span | None],
) -> bool:
    """Whether all arguments exist and have the type of their defaults; reports E531 and E532 otherwise."""
    sound = True
    for key, value in given.items():
        span = spans.get(key)
        if key in RESERVED:
            sound = False
            sink.report("E531", span, f"`{key}` of {what} is chosen by r2d2c", fix="leave it out")
        elif key not in known:
            sound = False
            near = suggest(key, known)
            # No replacement: the span covers the whole argument where the caller has no better one.
            sink.report(
                "E531",
                span,
                f"{what} has no argument `{key}`",
                notes=[f"its arguments: {', '.join(known)}"],
                fix=Fix(near.text) if near else None,
            )
        elif wrong := _wrong(key, value, known[key]):
            sound = False
            sink.report("E532", span, f"argument `{key}` of {what} {wrong}, not {value!r}")
    return sound


def _wrong(key: str, value: Any, default: Any) -> str | None:
    """What a value must be like where it is not."""
    if default is None:
        return None if value is None or isinstance(value, str) else "must be a name"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) else "must be a name"
    if isinstance(default, tuple):
        fits = (
            isinstance(value, tuple | list)
            and len(value) == len(default)
            and all(_is_number(v) or (v is None and d is None) for v, d in zip(value, default, strict=True))
        )
        return None if fits else f"must be {len(default)} numbers in parentheses"
    if not _is_number(value):
        return "must be a number"
    if key in _NOT_NEGATIVE and value < 0:
        return "must not be negative"
    if key in _WHOLE and value != int(value):
        return "must be a whole number"
    return None


_WHOLE = ("every", "epochs", "ns_steps", "times", "patience", "cooldown")
_NOT_NEGATIVE = ("lr", "weight_decay", "eps", "momentum", "gamma", "minimum", "end", *_WHOLE)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def build_optimizer(
    record: OptimizerRecord,
    arguments: Mapping[str, Any],
    parameters: Iterable[Tensor | dict[str, Any]],
    span: Span | None = None,
) -> Optimizer:
    """torch's optimizer over these parameters (or torch's groups of them), fused where that works.

    E532 if torch refuses a value, E534 if it refuses the parameters.
    """
    import torch

    items = list(parameters)
    tensors = [t for item in items for t in (item["params"] if isinstance(item, dict) else [item])]
    if record.matrices_only and any(t.ndim != 2 for t in tensors):
        odd = next(t for t in tensors if t.ndim != 2)
        refuse(
            "E534",
            f"optimizer `{record.name}` trains only matrices, one parameter has shape {list(odd.shape)}",
            span,
            fix="give the others another one: `optimizers: {vectors: adamw}`",
        )
    cls = getattr(torch.optim, record.torch_class)
    # From the spec a pair may come as a list; torch compares and unpacks tuples.
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        if record.fused and tensors and all(t.is_floating_point() for t in tensors):
            try:
                fused: Optimizer = cls(items, **given, fused=True)
                return fused
            except RuntimeError:  # no fused kernel for this device
                pass
        built: Optimizer = cls(items, **given)
    except ValueError as error:
        refuse("E532", f"optimizer `{record.name}`: {error}", span)
    return built
