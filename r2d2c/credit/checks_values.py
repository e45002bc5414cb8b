"""Why `target`, `direct` and `synthetic` cannot stand on a link."""

from __future__ import annotations

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.checks import (
    can_have_delta,
    gives,
    has_batch,
    has_loss_above,
    is_sized,
    listed,
    name_of,
    place_of,
    unknown_sizes,
)
from r2d2c.credit.parts import numel
from r2d2c.graph import Loss, Value
from r2d2c.types import INTEGERS

# -- target


def check_target(c: LinkCheck) -> None:
    """An inverse has to lead from the one value that the task above gives to the link's."""
    if not can_have_delta(c) or not _can_invert(c):
        return
    if c.first:
        has_loss_above(c, c.links, sent=True)


def _can_invert(c: LinkCheck) -> bool:
    task, given = c.link.target, c.option("inverse")
    values = gives(c.graph, task)
    floating = [f"`{task}.{name}`" for name, type_ in values if type_.floating]
    shown = " and ".join(f"`{name}`, {type_}" for name, type_ in values)
    if not floating or not values[0][1].floating or len(floating) > 1:
        what = f"it gives {shown}" if values else "nothing reads a value of it"
        many = f": its target would leave {' and '.join(floating[1:])} out" if len(floating) > 1 else ""
        c.report(
            "E491",
            f"the credit `target` needs one floating value of `{task}` to lead back from, and {what}{many}",
            also=[(c.target.origin, f"`{task}`")],
            fix=f"let `{task}` give one value, or give this link the credit `backprop`",
        )
        return False
    (name, above), *_ = values
    block = "give `inverse=` a block that leads back, step by step"
    if not has_batch(above):
        message = f"`{task}.{name}` is {above}: a target is one of every sample, with the batch first"
        c.report("E491", message, fix="give this link the credit `backprop`")
        return False
    if given is None:
        if numel(above) is None:
            size = f"{listed(unknown_sizes(above))} is known only when the model runs"
            message = f"`{task}.{name}` is {above}: {size}, and the inverse is one linear layer"
            c.report("E491", message, fix=block)
            return False
        return is_sized(c, "the inverse is one linear layer", block)
    return _shaped(
        c, "E491", f"the inverse makes {{}} of `{task}.{name}`, {above}, and `{c.name}` is {c.type}", given
    )


def _shaped(c: LinkCheck, code: str, message: str, region: str) -> bool:
    """Whether a behavior of an option ends with the shape of the link's value."""
    found = c.graph.types[c.graph.regions[region].outputs[0].value]
    if found.dims == c.type.dims and found.dtype == c.type.dtype:
        return True
    c.report(
        code,
        message.format(found),
        span=c.graph.regions[region].origin,
        also=place_of(c, f"{c.type}"),
        fix=f"let it end with the shape of `{c.name}`",
    )
    return False


# -- synthetic


def check_synthetic(c: LinkCheck) -> None:
    if can_have_delta(c) and _can_guess(c) and c.first:
        has_loss_above(c, c.links, sent=c.option("bootstrap"))


def _can_guess(c: LinkCheck) -> bool:
    given, label = c.option("predictor"), c.option("labels")
    if given is not None:
        what = f"`{c.name}`, {c.type}: it guesses δ, which has the shape of `{c.name}`"
        return _shaped(c, "E493", f"the predictor makes {{}} of {what}", given)
    if not is_sized(c, "the predictor is one linear layer", "give `predictor=` a block"):
        return False
    port = next((port.value for port in c.graph.body.inputs if port.name == label), None)
    if port is None:
        return True
    type_, classes = c.graph.types[port], c.graph.bounds.get(port)
    if type_.dtype in INTEGERS and type_.rank == 1 and isinstance(classes, int):
        return True
    known = "" if type_.dtype not in INTEGERS else ", and nothing says of how many classes"
    c.report(
        "E493",
        f"`{label}` is {type_}{known}: the linear predictor sees a class label only",
        notes=[
            "a class label is `i64[B]`, and a distance such as `cross_entropy` says how many classes there are"
        ],
        fix=f"give `predictor=` a block of `{c.name}` and `{label}`, or leave out `labels=`",
    )
    return False


# -- direct


def check_direct(c: LinkCheck) -> None:
    if not can_have_delta(c):
        return
    outputs = _outputs(c)
    if outputs:
        for value, loss in outputs.items():
            _fits(c, value, loss)
    elif c.first:
        _report_no_error(c)


def _outputs(c: LinkCheck) -> dict[Value, Loss]:
    """The outputs that the losses at the end of the graph read, those of `losses:` too, and that a gradient comes back to."""
    from r2d2c.passes.credit import output_tasks
    from r2d2c.passes.reach import Reach

    calls = {node.id: node for node in c.graph.body.nodes}
    ends, named = output_tasks(c.graph), c.graph.losses
    further = [named[n] for n in c.active if n in named and named[n].owner is None and named[n].rule is None]
    found: dict[Value, Loss] = {}
    flat = c.flat
    reach = Reach(flat, c.ops)
    for loss in (*c.ends, *further):
        cone = reach.cone([flat.losses[loss.name].value]).nodes
        for value in calls[loss.value.node].inputs:
            if value is None or value.node not in ends or not c.graph.types[value].floating:
                continue
            made = c.graph.regions[value.node].outputs[value.port].value.node
            if made in cone or not any(node.id == made for node in flat.body.nodes):
                found.setdefault(value, loss)
    return found


def _fits(c: LinkCheck, value: Value, loss: Loss) -> None:
    """B leads from one row of the error to one row of h: of a sample, or of a place of a sequence."""
    given, type_ = c.graph.types[value], c.type
    name = f"{value.node}.{name_of(c.graph, value)}"
    if given.dims[:1] != type_.dims[:1]:
        why = "they have other batches"
    elif numel(given) is not None and numel(type_) is not None:
        return
    elif given.dims[:-1] != type_.dims[:-1]:
        names = listed(unknown_sizes(type_ if numel(type_) is None else given))
        why = f"{names} is known only when the model runs, and B leads from each place of one to the same place of the other"
    elif isinstance(given.dims[-1], int) and isinstance(type_.dims[-1], int):
        return
    else:
        why = f"{listed(unknown_sizes(type_)[-1:] or unknown_sizes(given)[-1:])}, a side of B, is known only when the model runs"
    c.report(
        "E492",
        f"the error at `{name}`, {given}, cannot be led to `{c.name}`, {type_}: {why}",
        also=[(loss.origin, f"the error of `{loss.name}`"), *place_of(c)],
        fix=f"give `{c.link.name}` another credit, such as `feedback`",
    )


def _report_no_error(c: LinkCheck) -> None:
    losses = c.ends
    if losses:
        message = f"no gradient of {listed(loss.name for loss in losses)} comes to an output, so there is no error for `direct`"
        fix = "use what is differentiable instead: `softmax` for `argmax`, a difference for a comparison"
    else:
        message = "no task that gives an output has a distance, so there is no error for `direct`"
        fix = "give the task at the end a distance, and make a value of it an output"
    c.report("E492", message, also=[(loss.origin, "this loss") for loss in losses], fix=fix)


__all__ = ["check_direct", "check_synthetic", "check_target"]
