"""What teaches a representative: terms that cannot reach it, and ways in which it collapses."""

from __future__ import annotations

from r2d2c.graph import Link, Node, Region, Task, Value
from r2d2c.passes.teach import linear_form, mentioned
from r2d2c.source import Span
from r2d2c.types import INTEGERS
from r2d2c.verify.context import Context, Pupil, listed
from r2d2c.verify.learning import cuts, link_at


def check_teach(c: Context) -> None:
    for task in c.graph.tasks.values():
        if task.representative is None:
            continue
        if task.name in c.dropped:
            _report_dropped(c, task)
        else:
            _check_task(c, task, [pupil for pupil in c.pupils if pupil.task == task.name])


def _report_dropped(c: Context, task: Task) -> None:
    link = next(
        k for k in c.graph.links if k.source_task == task.name and not c.rules[k.credit.rule].keeps_distance
    )
    rule = link.credit.rule
    c.sink.report(
        "N465",
        c.graph.losses[task.name].origin,
        f"the distance of `{task.name}` is not used under the credit `{rule}`, nor is its representative",
        also=[(link.credit.origin, f"`{rule}` brings back the gradient of `{link.target}` instead")],
        fix=f"`keep: own` in `{task.name}` keeps both",
    )


def _teach_span(c: Context, task: Task) -> Span | None:
    syntax = c.tasks[task.name].teach
    return syntax.span(syntax.root) if syntax is not None else None


def _place(c: Context, task: Task) -> Span | None:
    """Where the representative is written."""
    syntax = c.tasks[task.name].representative
    if syntax is None or not syntax.statements:
        return task.origin
    last = syntax.statements[-1]
    return Span(syntax.source, last.start, last.end)


def name_of(c: Context, task: Task) -> str:
    return c.representative_name(task.name) or f"the representative of `{task.name}`"


def _check_task(c: Context, task: Task, pupils: list[Pupil]) -> None:
    params = set().union(*(pupil.cone.params for pupil in pupils))
    reached = set().union(*(pupil.reached for pupil in pupils))
    teachers = set().union(*(pupil.teachers for pupil in pupils))
    region = c.graph.regions[task.teach] if task.teach is not None else None
    if region is not None:
        if not params:
            message = f"the representative of `{task.name}` has no parameters, so there is nothing to teach"
            c.sink.report(
                "W466",
                _teach_span(c, task),
                message,
                fix="remove `teach`, or put a layer into the representative",
            )
            return
        missing = [name for name in mentioned(region) if name not in reached]
        for name in missing:
            _report_term(c, task, name)
        if missing:
            return
    if not params:
        return
    if region is not None and linear_form(region) is None:
        _report_nonlinear(c, task, region)
    elif teachers == {task.name}:
        _report_collapse(c, task, region is not None, reached)


def _report_term(c: Context, task: Task, name: str) -> None:
    """A term of `teach` that can never change the representative."""
    syntax = c.tasks[task.name].teach
    assert syntax is not None
    index = next(
        (i for i, node in enumerate(syntax.nodes) if node.kind == "name" and node.value == name), syntax.root
    )
    span, r = syntax.span(index), name_of(c, task)
    message = f"the term `{name}` can never change `{r}`"
    if name not in c.losses:
        links = [link for link in c.graph.links if link.source_task == name]
        rule = links[0].credit.rule if links else "backprop"
        label = f"the credit `{rule}` drops the distance of `{name}`"
        c.sink.report("E460", span, message, label, fix=f"add `keep: own` to `{name}`, or remove the term")
        return
    leaves = {pupil.leaf.node for pupil in c.pupils if pupil.task == task.name}
    ends = [n for n in cuts(c, [c.losses[name].value]) if leaves & c.behind([Value(n.id)])]
    if ends:
        label = f"no gradient comes from the loss `{name}` to `{r}`"
        also = [_end(c, node) for node in ends]
        c.sink.report(
            "E460", span, message, label, also=also, fix="let the gradient through, or remove the term"
        )
        return
    link = next((k for k in c.graph.links if k.source_task == task.name and k.target == name), None)
    if link is None:
        label = f"nothing that the loss `{name}` is computed from is made of `{r}`"
        c.sink.report(
            "E460", span, message, label, fix=f"remove the term, or let the loss `{name}` read `{r}`"
        )
        return
    value, entry = _link_value(c, link), c.link_syntax(link.origin)
    h = value.rpartition(".")[2]
    places = [(link.origin, f"this link feeds `{value}`")] if entry is not None else []
    fix = f"add to `links:` `{value} -> {name}: {{credit: local, feed: {r}}}`"
    if entry is not None:
        local = c.rules[link.credit.rule].takes_feed
        fix = f"add `feed: {r}`" if local else f"write `{{credit: local, feed: {r}}}`"
    c.sink.report(
        "E460",
        span,
        message,
        f"with `feed: {value}` (the default), `{name}` reads `{h}` and not `{r.rpartition('.')[2]}`",
        also=places,
        fix=fix,
    )


def _end(c: Context, node: Node) -> tuple[Span | None, str]:
    """Where a gradient ends, and why."""
    link = link_at(c, node)
    if link is None and node.op == "leaf":
        return node.origin, "a credit rule takes the gradient here and leads it on in its own way"
    if link is None:
        return node.origin, f"no gradient passes `{node.op}`"
    return (
        link.origin or link.credit.origin,
        f"the credit `{link.credit.rule}` lets none back from `{link.target}`",
    )


def _link_value(c: Context, link: Link) -> str:
    region = c.graph.regions[link.source.node]
    return f"{link.source_task}.{region.outputs[link.source.port].name}"


def _report_collapse(c: Context, task: Task, explicit: bool, reached: set[str]) -> None:
    r, own = name_of(c, task), task.name
    link = next((k for k in c.graph.links if k.source_task == own), None)
    others = sorted(reached - {own})
    if others:
        fix = f"teach it by what stands above too: `teach: {' + '.join([own, *others])}`"
    elif link is not None:
        value = _link_value(c, link)
        fix = f"let `{link.target}` learn from it: `{value} -> {link.target}: {{credit: local, feed: {r}}}`"
    else:
        fix = f"add a loss that reads `{r}` and the target"
    span = _teach_span(c, task) if explicit else _place(c, task)
    c.sink.report(
        "W461",
        span,
        f"`{r}` is taught by its own loss alone, so it can collapse to a constant",
        notes=[f"a constant `{r}` makes the loss `{own}` 0, and tells the tasks above nothing of the target"],
        fix=fix,
    )


def _report_nonlinear(c: Context, task: Task, region: Region) -> None:
    ops = {node.op for node in region.nodes} - {"port", "constant"}
    names = mentioned(region)
    span = _teach_span(c, task)
    if ops == {"mul"} and len(names) > 1:
        c.sink.report(
            "W462",
            span,
            f"a product of losses lets `{name_of(c, task)}` collapse",
            notes=[f"as soon as one of {listed(names)} is near 0, the others teach nothing any more"],
            fix=f"add them: `teach: {' + '.join(names)}`",
        )
        return
    message = f"`teach` of `{task.name}` is not linear in the losses"
    notes = ["how much each loss teaches then changes with the losses themselves, at every step"]
    c.sink.report("N463", span, message, notes=notes)


# -- representatives of class labels


def check_classes(c: Context) -> None:
    """Learned representatives that are computed from a class label and nothing else."""
    done: set[str] = set()
    for pupil in c.pupils:
        labels = _labels(c, pupil)
        if labels is None or pupil.task in done:
            continue
        done.add(pupil.task)
        task = c.graph.tasks[pupil.task]
        name, bound = labels
        count = str(bound) if isinstance(bound, int) else "few"
        c.sink.report(
            "N464",
            _place(c, task),
            f"`{name_of(c, task)}` is computed from the class `{name}` alone, so it has only {count} values",
            notes=[
                "what learns from it sees only these points; a target that is dense or a sequence, noise\n"
                "(`noise(…)`) or an input in the representative has no such limit"
            ],
        )


def _labels(c: Context, pupil: Pupil) -> tuple[str, object] | None:
    if not pupil.cone.params:
        return None
    found: tuple[str, object] | None = None
    targets = set(c.graph.targets)
    for id_ in c.behind([pupil.value]):
        node = c.nodes[id_]
        if node.op in c.ops and "random" in c.ops[node.op].traits:
            return None
        if node.op == "port":
            type_ = c.training.types[Value(id_)]
            if (
                node.attrs["name"] not in targets
                or type_.dtype not in INTEGERS
                or type_.rank != 1
                or found is not None
            ):
                return None
            found = node.attrs["name"], c.training.bounds.get(Value(id_))
    return found
