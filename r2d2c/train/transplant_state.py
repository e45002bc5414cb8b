"""The optimizer's state of a model that goes on from another one, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.train.checkpoint import pack_state, packed_state
from r2d2c.train.growth_rows import fresh_state
from r2d2c.train.optimizers import COUNTERS
from r2d2c.train.plans import Choice
from r2d2c.train.settings import Settings, read_settings
from r2d2c.train.transplant_axes import renamed

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model
    from r2d2c.train.stepper import Stepper
    from r2d2c.train.transplant import Place, Plan


def move_states(plan: Plan, model: Model, stepper: Stepper) -> tuple[dict[str, str], str]:
    """Give the stepper the state that the checkpoint has; what became of it, by parameter and in a sentence.

    The counter of steps is a parameter's own and stays. New entries have the state that a new optimizer has, but for
    adafactor: see `_moved_means`.
    """
    ours, earlier = _settings(model.spec), _settings(plan.old)
    (word, options), (was, options_was) = _kind(ours.choice("")), _kind(earlier.choice(""))
    if not ours.others and not earlier.others:
        if word != was:
            return {}, f"new: the run had {was}, the spec has {word}"
        if options != options_was:
            differing = ", ".join(sorted(k for k in options if options[k] != options_was.get(k)))
            return {}, f"new: the spec's {word} is another one, by {differing}"
    theirs: dict[str, dict[str, Any]] = {}
    for packed in plan.checkpoint.optimizers.values():
        if packed.scalars:
            theirs |= packed_state(packed)
    told: dict[str, str] = {}
    found: dict[str, dict[str, Any]] = {}
    groups = {key: packed for key, packed in stepper.pack().items() if packed.scalars}
    hyper = {
        name: group
        for packed in groups.values()
        for group in packed.scalars["groups"]
        for name in group["params"]
    }
    for name, parameter in stepper.parameters.items():
        state = theirs.get(renamed(name, plan.names))
        if not state or name not in hyper:
            continue
        before = earlier.choice(renamed(name, plan.names))
        if _kind(ours.choice(name)) != _kind(before):
            told[name] = f"new: the run had {before.call}"
            continue
        place = plan.grown.get(name)
        if place is None and name not in plan.kept:
            continue
        found[name] = (
            _moved(state, place, parameter, hyper[name])
            if before.record.shaped
            else _moved_means(state, place, parameter)
        )
        told[name] = "kept" if place is None else "padded"
    packs = {}
    for key, packed in groups.items():
        names = [name for group in packed.scalars["groups"] for name in group["params"]]
        packs[key] = pack_state({n: found[n] for n in names if n in found}, packed.scalars["groups"])
    stepper.unpack(packs, None)
    return told, f"{word}, the state of {len(found)} parameters goes on" if found else f"{word}, new"


def _moved(
    state: Mapping[str, Any], place: Place | None, parameter: Tensor, group: Mapping[str, Any]
) -> dict[str, Any]:
    """The state of one parameter, of which every part has its shape or is a counter."""
    made: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or key in COUNTERS or place is None:
            made[key] = value
        else:
            start = torch.zeros(parameter.shape, dtype=value.dtype)
            fresh = fresh_state(key, parameter, group)
            start += fresh.to("cpu") if isinstance(fresh, torch.Tensor) else fresh
            made[key] = place.put(value, start, zero=False)
    return made


# Adafactor (Shazeer & Stern 2018, algorithm 4) keeps the means of the squares along the last axis and the one before:
# there, these parts have the size 1.
_MEAN_OF = {"row_var": -1, "col_var": -2}


def _moved_means(state: Mapping[str, Any], place: Place | None, parameter: Tensor) -> dict[str, Any]:
    """The state of one parameter of adafactor: means of squared gradients, by row and by column of a matrix.

    New rows and columns have the mean of the old ones. So the means that go over them, and with these the estimate
    row · column / mean(row) of every old entry, are what they were; zeros would make all of these smaller.
    """
    made: dict[str, Any] = {}
    for key, value in state.items():
        made[key] = value
        if not isinstance(value, torch.Tensor) or key in COUNTERS or place is None:
            continue
        for axis, places in enumerate(place.places):
            size = parameter.shape[axis]
            if _MEAN_OF.get(key) == axis - parameter.ndim or size == len(places):
                continue
            sizes = [size if k == axis else n for k, n in enumerate(made[key].shape)]
            wider = made[key].mean(axis, keepdim=True).expand(sizes).clone()
            made[key] = wider.index_copy_(axis, torch.from_numpy(places), made[key])
    return made


def _settings(checked: Checked) -> Settings:
    settings = read_settings(checked, Sink())
    assert settings is not None  # it was checked when training began
    return settings


def _kind(choice: Choice) -> tuple[str, dict[str, Any]]:
    """An optimizer's name, and which of its parts are on: those decide what state it has."""
    given = {**choice.record.arguments, **choice.call.arguments}
    parts = {key: value if isinstance(value, bool) else value == 0 for key, value in given.items()}
    shaping = ("amsgrad", "momentum", "centered", "nesterov")
    return choice.record.name, {key: value for key, value in parts.items() if key in shaping}
