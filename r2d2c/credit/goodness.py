"""Forward-forward: a task learns to be lively on positive samples and quiet on negative ones.

G. Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", 2022. For h, a value of a task on the
positive (h⁺) and the negative (h⁻) stream, with its goodness g = mean h² over the features of a sample:

    L = mean over samples of softplus(k(θ − g(h⁺))) + softplus(k(g(h⁻) − θ))

θ is the threshold and k the sharpness; in the paper g is a sum, which is k = the number of features.

Nothing comes back from the task above, which reads h / √(g + ε). The streams are the input with the label, or with a
wrong one, written into it; the answer is that of the tasks above on the input with a neutral label, or the goodness
of every label tried in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from r2d2c.credit.check import LinkCheck
from r2d2c.credit.goodness_graph import Goodness
from r2d2c.credit.goodness_plan import DRAWN, Layer, Plan, plan_of
from r2d2c.credit.options import Option, options_of
from r2d2c.credit.record import CreditRule
from r2d2c.graph import Graph, Link, Value, spelled
from r2d2c.ops.record import Op
from r2d2c.types import Dim

_SHARED = ("negatives", "infer", "split", "label_scale", "sharpness", "input", "target")
_INSIDE = ("goodness", "local", "backprop")


def _plan(graph: Graph, links: Sequence[Link]) -> Plan:
    return plan_of(graph, links, [options_of(GOODNESS, link.credit) for link in links])


def _rewrite(graph: Graph, links: Sequence[Link], ops: Mapping[str, Op]) -> Graph:
    plan = _plan(graph, links)
    return graph if plan.pending else Goodness(plan, ops).run()


# -- what cannot be


def _check(c: LinkCheck) -> None:
    """Once for all goodness links, at the first of them: they are one network."""
    links = [link for link in c.graph.links if link.credit.rule == GOODNESS.name]
    if c.link != links[0] or any(loss.rule == GOODNESS.name for loss in c.graph.losses.values()):
        return
    plan = _plan(c.graph, links)
    if plan.pending or not _same_options(c, plan):
        return
    checks: tuple[Callable[[LinkCheck, Plan], bool], ...] = (
        _credits, _label, _input, _layers, _negatives, _answer, _only_answer,
    )  # fmt: skip
    for check in checks:
        if not check(c, plan):
            return


def _same_options(c: LinkCheck, plan: Plan) -> bool:
    for link in plan.links[1:]:
        other = options_of(GOODNESS, link.credit)
        for name in _SHARED:
            if other[name] != plan.options[name]:
                c.report(
                    "E485",
                    f"`{name}` is {spelled(other[name])} here, and {spelled(plan.options[name])} at another link",
                    span=link.credit.origin,
                    also=[(plan.links[0].credit.origin, "the first one")],
                    fix=f"give both the same `{name}`, or write the credit once, as the spec's `credit:`",
                )
                return False
    for layer in plan.layers:
        for link, threshold in zip(plan.links, plan.thresholds, strict=True):
            if link.source == layer.value and threshold != layer.threshold:
                message = f"`{layer.task}.{layer.name}` has one goodness, and two thresholds: {layer.threshold:g} and {threshold:g}"
                also = [(layer.link.credit.origin, "the first one")]
                c.report(
                    "E485", message, span=link.credit.origin, also=also, fix="give both links the same one"
                )
                return False
    return True


def _credits(c: LinkCheck, plan: Plan) -> bool:
    """Below a goodness link, both streams run through every link: no other rule knows of them."""
    for name in plan.tasks:
        for link in plan.incoming[name]:
            rule = link.credit.rule
            if rule not in _INSIDE or link.feed is not None:
                what = (
                    f"`feed` of `{link.name}`" if rule in _INSIDE else f"the credit `{rule}` of `{link.name}`"
                )
                c.report(
                    "E487",
                    f"{what} stands below a link with the credit `goodness`",
                    f"`{name}` runs on positive and on negative samples",
                    span=link.credit.origin or link.origin,
                    also=[(c.link.credit.origin, "because of this link")],
                    fix="below it may stand `goodness`, `local` and `backprop`",
                )
                return False
    return True


def _label(c: LinkCheck, plan: Plan) -> bool:
    if plan.negative is not None or plan.labels is not None:
        return True
    notes = (
        [f"the targets are {', '.join(f'`{name}`' for name in c.graph.targets)}"] if c.graph.targets else []
    )
    wanted = plan.options["target"]
    which = (
        f"`{wanted}` is no class label" if wanted is not None else "there is no class label among the targets"
    )
    c.report(
        "E482",
        f"the credit `goodness` needs a class label to make negative samples from, and {which}",
        notes=[
            *notes,
            "a class label is `i64[B]`, and a distance such as `cross_entropy` says how many classes there are",
        ],
        fix="declare negative data, `targets: {negative: f32[B, …]}`, and write `goodness(negatives=negative)`",
    )
    return False


def _input(c: LinkCheck, plan: Plan) -> bool:
    if plan.input is None:
        named, found = plan.options["input"], plan.candidates
        what = "negative samples cannot differ" if plan.labels is None else "no label can be written"
        if named is not None:
            message = f"`{named}` is no floating input `[B, …]` that the tasks below read"
        elif found:
            message = f"the tasks below read {_listed(found)}: which one takes the label?"
        else:
            message = f"no task below reads a floating input `[B, …]`, so {what}"
        fix = f"write `goodness(input={found[0]})`" if found else None
        c.report("E483", message, _these("task below", plan.tasks), fix=fix)
        return False
    name = plan.options["input"] or plan.candidates[0]
    if not isinstance(plan.batch, Dim):
        c.report("E483", f"`{name}` is {plan.type(plan.input)}: its first dim has to be the batch, `B`")
        return False
    if plan.labels is None:
        return True
    room, classes = plan.room, plan.labels.classes
    if isinstance(room, Dim) or room < classes:
        has = f"{room} places" if isinstance(room, int) else f"a size that only the run knows ({room})"
        c.report(
            "E483",
            f"a label of {classes} classes takes {classes} places of `{name}`, and it has {has}",
            f"it is {plan.type(plan.input)}",
            fix=f"widen it: `{name}` needs {classes} features for the label beside its own",
        )
        return False
    return True


def _layers(c: LinkCheck, plan: Plan) -> bool:
    for layer in plan.layers:
        type_ = plan.type(layer.value)
        if not type_.floating or type_.rank < 2 or not plan.batched(layer.value):
            value = f"`{layer.task}.{layer.name}`"
            c.report(
                "E487",
                f"goodness is the mean square of the features of a sample, and {value} is {type_}",
                span=layer.link.credit.origin or layer.link.origin,
                fix=f"let {value} be `f32[{plan.batch}, …]`, or give the link another credit",
            )
            return False
    return True


def _negatives(c: LinkCheck, plan: Plan) -> bool:
    if plan.negative is None:
        return True
    assert plan.input is not None
    wanted, given = plan.type(plan.input), plan.type(plan.negative)
    name, inside = plan.options["negatives"], plan.options["input"] or plan.candidates[0]
    if wanted != given:
        message = f"`{name}` is {given}, and `{inside}`, which it stands in for, is {wanted}"
        c.report("E484", message, fix=f"declare `{name}` as `{wanted}`")
        return False
    if plan.negative in plan.read():
        c.report("E484", f"`{name}` holds negative data, and the tasks below read it as well")
        return False
    return True


def _answer(c: LinkCheck, plan: Plan) -> bool:
    """Hard negatives are drawn from an answer, and the labels' goodness replaces one."""
    wanted = plan.options["negatives"] == "hard" or not plan.classifies
    if not wanted or plan.answer is not None:
        return True
    if not plan.classifies and plan.labels is None:
        message = "`infer=labels` tries every label, and with declared negative data no label is written"
        c.report("E486", message, fix="leave it out: `infer=classifier` is the default")
        return False
    assert plan.labels is not None
    kind = f"f32[{plan.batch}, {plan.labels.classes}]"
    code, why = (
        ("E484", "`negatives=hard` draws from") if plan.classifies else ("E486", "`infer=labels` replaces")
    )
    message = f"{why} the model's own answer, `{kind}`, and no task above gives one"
    fix = "write `negatives=uniform`" if plan.classifies else "let the task above give one logit a class"
    c.report(code, message, _these("task above", plan.above), fix=fix)
    return False


def _only_answer(c: LinkCheck, plan: Plan) -> bool:
    """With `infer=labels`, the task above goes: its answer must be all that is asked of it."""
    if plan.classifies:
        return True
    assert plan.answer is not None
    top, graph, fix = plan.answer.node, plan.graph, "write `infer=classifier`"
    others = [name for name in plan.above if name != top]
    if others:
        c.report(
            "E486",
            f"with `infer=labels` the answer is goodness alone, and {_listed(others)} would be of no use",
            fix=fix,
        )
        return False
    spans = {node.id: node.origin for node in graph.body.nodes}
    cut = _without(graph, plan.answer)
    for port in graph.body.outputs:
        if port.value != plan.answer and cut(port.value) & {top, *plan.tasks}:
            message = f"with `infer=labels` the model gives `{top}.{_name(graph, plan.answer)}` alone; `{port.name}` needs more"
            c.report("E486", message, also=[(spans.get(port.value.node), f"`{port.name}`")], fix=fix)
            return False
    for name, loss in plan.kept().items():
        if top in plan.behind([loss.value]):
            message = f"with `infer=labels` there is no `{top}`, which the loss `{name}` reads"
            c.report("E486", message, also=[(loss.origin, "this loss")], fix=fix)
            return False
    taught = [
        name for name in plan.tasks if graph.tasks[name].keep_own and graph.tasks[name].teach is not None
    ]
    if taught:
        c.report("E486", f"with `infer=labels`, `{taught[0]}` can keep its loss, but no `teach`", fix=fix)
    return not taught


def _name(graph: Graph, value: Value) -> str:
    return graph.regions[value.node].outputs[value.port].name


def _without(graph: Graph, answer: Value) -> Callable[[Value], set[str]]:
    """The nodes of the main region behind a value, other than through the answer."""
    nodes = {node.id: node for node in graph.body.nodes}

    def behind(value: Value) -> set[str]:
        found: set[str] = set()
        stack = [value]
        while stack:
            at = stack.pop()
            if at != answer and at.node not in found:
                found.add(at.node)
                stack += [v for v in nodes[at.node].inputs if v is not None]
        return found

    return behind


def _listed(names: Iterable[str]) -> str:
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _these(what: str, names: Sequence[str]) -> str:
    """``the task below is `a` ``, ``the tasks below are `a` and `b` ``."""
    noun, _, rest = what.partition(" ")
    many = len(names) > 1
    shown = f"{noun}s {rest}" if many else what
    return f"the {shown.strip()} {'are' if many else 'is'} {_listed(names)}"


GOODNESS = CreditRule(
    "goodness",
    "Forward-forward (Hinton, 2022): the lower task learns to have a high mean square on samples with their label "
    "written in, and a low one on those with a wrong label, by softplus(k(θ − g)) and softplus(k(g − θ)). The task above reads "
    "the value normalised, h / √(mean h²), and nothing comes back from it. With `infer=classifier` the model answers "
    "with the tasks above, on the input with a neutral label; with `infer=labels` it tries every label and answers with "
    "the goodness of each.",
    "0; L = softplus(k(θ − g(h⁺))) + softplus(k(g(h⁻) − θ)), g = mean h²",
    rewrite=_rewrite,
    check=_check,
    arguments=(
        Option("threshold", "float", 1.0, "θ, in units of the mean square of a feature"),
        Option(
            "negatives",
            "input",
            "hard",
            "wrong labels, drawn uniformly or from the model's own answer (with `infer=labels` that takes a pass for each "
            "label); or a port with negative data, and then no label is written",
            DRAWN,
        ),
        Option("infer", "choice", "classifier", "how the model answers", ("classifier", "labels")),
        Option(
            "split",
            "bool",
            False,
            "half of a batch is positive and half negative, instead of every sample both",
        ),
        Option("label_scale", "float", 3.0, "the size of a label in the input", minimum=0.001),
        Option(
            "sharpness", "float", 10.0, "k: how steeply the loss rises on the wrong side of θ", minimum=0.001
        ),
        Option("input", "input", None, "the input that takes the label, where there are several"),
        Option("target", "target", None, "the class label, where there are several"),
    ),
    colour="#393b79",
)

__all__ = ["GOODNESS", "Layer"]
