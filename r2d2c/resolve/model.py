"""From a parsed spec to the resolved graph: names bound, blocks instantiated, links made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from r2d2c.credit.record import CreditRule
from r2d2c.credit.registry import rules as credit_rules
from r2d2c.diagnostics import Sink, suggest
from r2d2c.graph import Argument, Credit, Graph, Link, Loss, Node, Region, Task, Value
from r2d2c.ops.registry import Ops
from r2d2c.resolve.credit import CreditBinder, build_behaviors
from r2d2c.resolve.dims import declare_dims, port_types
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.memories import Memories
from r2d2c.resolve.order import order_tasks, reads
from r2d2c.resolve.outputs import resolve_metric, resolve_outputs
from r2d2c.resolve.place_sets import declare_places
from r2d2c.resolve.program import Block, Program
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import Failed, Forbidden, Placed, Unknown
from r2d2c.resolve.scopes import ModelScopes
from r2d2c.resolve.state import check_names, resolve_states
from r2d2c.resolve.step_ranges import has_own_weight, is_mapped
from r2d2c.resolve.steps import mapped_loss
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.spec import BlockSyntax, LossSyntax, Spec, TaskSyntax


def resolve(
    spec: Spec,
    ops: Ops,
    imported: list[BlockSyntax],
    sink: Sink,
    seed: int = 0,
    rules: Mapping[str, CreditRule] | None = None,
) -> Graph:
    """The resolved graph of a spec. Mistakes go to the sink; the graph is then of no use."""
    known = credit_rules() if rules is None else rules
    return _Resolver(spec, ops, known, imported, sink).run(seed)


class _Resolver:
    def __init__(
        self,
        spec: Spec,
        ops: Ops,
        rules: Mapping[str, CreditRule],
        imported: list[BlockSyntax],
        sink: Sink,
    ) -> None:
        self.spec, self.sink, self.rules = spec, sink, rules
        self.program = Program(sink, ops)
        declare_dims(spec.dims, self.program)
        self._declare_blocks([*imported, *spec.blocks])
        self._declare_instances()
        self.port_types = port_types(spec, self.program)
        shown = {str(dim) for type_ in self.port_types.values() for dim in type_.dims}
        self.program.free = self.program.ranges.keys() - shown
        self.main = RegionBuilder(self.program, "model", "model", "model", origin=Span(spec.source, 0, 0))
        for port in (*spec.inputs, *spec.targets):
            self.main.port(port.name, port.span)
        self.scopes = ModelScopes(spec, self.main, self.port_types)
        self.tasks: dict[str, Task] = {}
        self.losses: dict[str, Loss] = {}
        self.links: list[Link] = []
        ports = ([port.name for port in group] for group in (spec.inputs, spec.targets))
        self.credits = CreditBinder(self.program, rules, *ports)
        self.default = self.credits.bind(spec.override or spec.credit) or Credit("backprop")

    def _declare_blocks(self, blocks: list[BlockSyntax]) -> None:
        for block in blocks:
            name = block.signature.name
            if name in self.program.blocks:
                first = self.program.blocks[name].span
                self.sink.report(
                    "E235", block.span, f"the block `{name}` is defined twice", also=[(first, "first here")]
                )
            self.program.blocks[name] = Block(block.signature, block.body, block.span)

    def _declare_instances(self) -> None:
        """Loops, hypernets, memories and op graphs, by their names."""
        spec = self.spec
        blocks = self.program.blocks
        named = [(net.name, net.span) for net in spec.hypernets]
        named += [(memory.name, memory.span) for memory in spec.memories]
        named += [(graph.name, graph.span) for graph in spec.op_graphs]
        named += [(places.name, places.span) for places in spec.places]
        for name, span in [*named, *((loop.signature.name, loop.span) for loop in spec.loops)]:
            if name in blocks:
                also = [(blocks[name].span, "first here")]
                self.sink.report("E211", span, f"the name `{name}` is used twice", also=also)
        self.program.loops = {loop.signature.name: loop for loop in spec.loops}
        self.program.hypernets = {net.name: net for net in spec.hypernets}
        self.program.memories = Memories({memory.name: memory for memory in spec.memories})
        for graph in spec.op_graphs:
            if graph.name in self.program.dims:
                message = f"the name `{graph.name}` is that of a dim too"
                self.sink.report("E211", graph.span, message, fix="use another name")
        self.program.op_graphs = {graph.name: graph for graph in spec.op_graphs}
        declare_places(spec.places, self.program)

    def _arguments(self) -> dict[str, Argument]:
        """What is given when the model runs: a width, and the dims with a range that no input shows."""
        program = self.program
        sizes = {
            name: Argument(name, "size", program.usual[name], low, high)
            for name, (low, high) in program.ranges.items()
            if name in program.free and name in program.used_dims
        }
        found = {**sizes, **program.arguments}
        for port in (*self.spec.inputs, *self.spec.targets):
            if port.name in found:
                message = f"`{port.name}` is an argument of the model too, and `model({port.name}=…)` gives only one of them"
                self.sink.report("E211", port.span, message, fix="use another name")
        return found

    def run(self, seed: int) -> Graph:
        spec, self.program.seed = self.spec, seed
        self._distinct_names()
        check_names(self.program, spec)
        syntaxes = {task.name: task for task in spec.tasks}
        for name in order_tasks(spec, self.sink):
            self._behavior(syntaxes[name])
        for name in self.scopes.representative_order(self.sink):
            self._representative(syntaxes[name])
        for task in spec.tasks:
            self._distance(task)
        for loss in spec.losses:
            self._loss(loss)
        for task in spec.tasks:
            self._teach(task)
        self._annotate_links()
        outputs = resolve_outputs(spec, self.scopes, self._finish_call)
        kept, states = resolve_states(self.program, self.scopes, self.port_types, spec)
        # Last, when all that the upper tasks give is known.
        self.links = list(build_behaviors(self.links, self.rules, self.scopes))
        read = (resolve_metric(metric, spec, self.sink) for metric in spec.metrics)
        metrics = tuple(metric for metric in read if metric is not None)
        program = self.program
        # Regions were finished before later readers exposed more of their values.
        for builder in self.scopes.builders.values():
            program.regions[builder.name] = builder.finish()
        types = {**self.port_types, **(program.states.types if states else {})}
        main = self.main.finish()
        nodes = tuple(self._with_outputs(node) for node in main.nodes)
        program.regions["model"] = Region(
            "model", "model", main.inputs, (*outputs, *kept), nodes, main.origin
        )
        return Graph(
            spec.name,
            "resolved",
            program.regions,
            "model",
            program.storage,
            self.tasks,
            self.losses,
            tuple(self.links),
            tuple(port.name for port in spec.targets),
            tuple(port.name for port in outputs),
            metrics,
            dims=program.dims,
            ranges=program.ranges,
            arguments=self._arguments(),
            types={self.main.port(name): type_ for name, type_ in types.items()},
            states=states,
            seed=seed,
        )

    def _with_outputs(self, node: Node) -> Node:
        if node.op != "call":
            return node
        region = self.program.regions[node.attrs["region"]]
        return replace(node, outputs=tuple(port.name for port in region.outputs))

    def _distinct_names(self) -> None:
        seen: dict[str, Span] = {}
        spec = self.spec
        groups = (spec.inputs, spec.targets, spec.tasks, spec.losses, spec.hypernets)
        named = [(entry.name, entry.span) for group in groups for entry in group]
        named += [(loop.signature.name, loop.span) for loop in spec.loops]
        named += [(memory.name, memory.span) for memory in spec.memories]
        named += [(graph.name, graph.span) for graph in spec.op_graphs]
        named += [(places.name, places.span) for places in spec.places]
        for name, span in named:
            if name in seen:
                also = [(seen[name], "first here")]
                self.sink.report("E211", span, f"the name `{name}` is used twice", also=also)
            seen.setdefault(name, span)

    # -- tasks
    def _finish_call(self, region: RegionBuilder, origin: Span) -> Value:
        """The call of a task's region in the main region."""
        inputs = tuple(self.scopes.main_value(port.name) for port in region.inputs)
        outputs = tuple(port.name for port in region.outputs)
        self.program.regions[region.name] = region.finish()
        return self.main.add(region.name, "call", inputs, {"region": region.name}, outputs, origin)

    def _run_body(self, region: RegionBuilder, syntax: Syntax) -> None:
        evaluator = Evaluator(region, syntax)
        for statement in syntax.statements:
            evaluator.statement(statement)
            span = evaluator.span(statement.root)
            if statement.returns:
                self.scopes.broken.add(region.name)
                self.sink.report("E236", span, "`return` is for blocks", fix="give the value a name: `h = …`")
            elif not statement.targets:
                self.scopes.broken.add(region.name)
                self.sink.report(
                    "E234", span, "this value is computed and not used", fix="give it a name: `h = …`"
                )

    def _behavior(self, task: TaskSyntax) -> None:
        region = self.scopes.behavior(task)
        if task.behavior is not None:
            self._run_body(region, task.behavior)
        self._finish_call(region, task.span)
        self.tasks[task.name] = Task(task.name, task.name, keep_own=task.keep_own, origin=task.span)

    def _representative(self, task: TaskSyntax) -> None:
        if task.representative is None:
            return
        region = self.scopes.representative(task)
        self._run_body(region, task.representative)
        self._finish_call(region, task.span)
        clash = set(region.defined) & set(self.scopes.builders[task.name].defined)
        for name in sorted(clash):
            also = [(self.scopes.builders[task.name].defined[name], "the behavior's")]
            self.sink.report(
                "E211", region.defined[name], f"`{name}` names a value of the behavior too", also=also
            )
        self._update(task.name, representative=region.name)

    def _update(self, name: str, **changes: Any) -> None:
        self.tasks[name] = replace(self.tasks[name], **changes)

    def _scalar_region(self, region: RegionBuilder, syntax: Syntax, name: str) -> Value | None:
        evaluator = Evaluator(region, syntax)
        evaluator.place = region.place
        result = evaluator.as_value(
            Placed(evaluator.expression(syntax.root, name), evaluator.span(syntax.root))
        )
        if isinstance(result, Failed):
            return None
        region.expose(name, result)
        return self._finish_call(region, evaluator.span(syntax.root))

    def _distance(self, task: TaskSyntax) -> None:
        weight = self._number(task.weight, "weight")
        if task.distance is None:
            if task.representative is not None:
                self.sink.report(
                    "E410", task.span, f"`{task.name}` has a representative and no distance to it"
                )
            if task.keep_own:
                self.sink.report(
                    "E410", task.span, f"`keep: own` in `{task.name}`, which has no distance to keep"
                )
            return
        region = self.scopes.loss(f"{task.name}.loss", task.name)
        value = self._scalar_region(region, task.distance, task.name)
        if value is not None:
            span = task.distance.span(task.distance.root)
            self.losses[task.name] = Loss(task.name, value, weight, task.name, span)
            self._update(task.name, loss=task.name)
        else:
            self.scopes.failed_losses.add(task.name)

    def _loss(self, loss: LossSyntax) -> None:
        region = self.scopes.loss(f"{loss.name}.loss", loss.name)
        if loss.body is not None and not is_mapped(loss):
            self._run_body(region, loss.body)
        if loss.value is None:
            return
        value = (
            self._mapped(region, loss)
            if is_mapped(loss)
            else self._scalar_region(region, loss.value, loss.name)
        )
        if value is not None:
            weight = 1.0 if has_own_weight(loss, self.program) else self._number(loss.weight, "weight")
            span = loss.value.span(loss.value.root)
            self.losses[loss.name] = Loss(loss.name, value, weight, None, span)
        else:
            self.scopes.failed_losses.add(loss.name)

    def _mapped(self, region: RegionBuilder, loss: LossSyntax) -> Value | None:
        assert loss.value is not None
        result = mapped_loss(region, loss, self._run_body)
        if isinstance(result, Failed):
            return None
        region.expose(loss.name, result)
        return self._finish_call(region, loss.value.span(loss.value.root))

    def _teach(self, task: TaskSyntax) -> None:
        if task.teach is None:
            return
        span = task.teach.span(task.teach.root)
        if task.representative is None:
            self.sink.report("E411", span, f"`teach` of `{task.name}`, which has no representative to teach")
            return
        region = self.scopes.teach(task.name, self.losses)
        if self._scalar_region(region, task.teach, "d") is not None:
            self._update(task.name, teach=region.name)

    def _number(self, syntax: Syntax | None, what: str) -> float:
        if syntax is None:
            return 1.0
        known = {
            entry.name for group in (self.spec.inputs, self.spec.targets, self.spec.tasks) for entry in group
        }
        region = RegionBuilder(self.program, "weight", "loss", "weight")
        region.outside = lambda name: (
            Forbidden("E212", f"a {what} is a number, and `{name}` is known only when the model runs", None)
            if name.partition(".")[0] in known
            else None
        )
        result = Evaluator(region, syntax).expression(syntax.root)
        if isinstance(result, (int, float)) and not isinstance(result, bool):
            return float(result)
        if isinstance(result, (Forbidden, Unknown)):
            Evaluator(region, syntax).as_value(Placed(result, syntax.span(syntax.root)))
        elif not isinstance(result, Failed):
            self.sink.report("E212", syntax.span(syntax.root), f"a {what} is a number")
        return 1.0

    # -- links
    def _annotate_links(self) -> None:
        links = self.scopes.links(self.default)
        annotated: dict[int, Span] = {}
        for entry in self.spec.links:
            matching = [
                number
                for number, (link, source_name) in enumerate(links)
                if link.target == entry.key.target and entry.key.source in (link.source_task, source_name)
            ]
            if not matching:
                self._no_such_link(entry.key.source, entry.key.target, entry.span, links)
            credit = self.credits.bind(entry.credit) if self.spec.override is None else None
            feed = self._feed(entry.feed) if entry.feed is not None else None
            for number in matching:
                if number in annotated:
                    also = [(annotated[number], "first here")]
                    self.sink.report("E413", entry.span, "this link is annotated twice", also=also)
                annotated[number] = entry.span
                link, source_name = links[number]
                changes: dict[str, Any] = {"origin": entry.span, "credit": credit or link.credit}
                if feed is not None and self._fed(changes["credit"]):
                    changes |= {"feed": feed[0], "feed_task": feed[1]}
                links[number] = (replace(link, **changes), source_name)
        self.links = [link for link, _ in links]

    def _fed(self, credit: Credit) -> bool:
        """Whether `feed` counts: one rule for every link overrules it where it does not take it."""
        rule = self.rules.get(credit.rule)
        return self.spec.override is None or rule is None or rule.takes_feed

    def _no_such_link(self, source: str, target: str, span: Span, links: list[tuple[Link, str]]) -> None:
        names = [name for _, name in links] + [link.source_task for link, _ in links]
        if target not in self.tasks:
            self.sink.report("E414", span, f"there is no task `{target}`", fix=suggest(target, self.tasks))
            return
        if source.partition(".")[0] == target:
            self.sink.report(
                "E434",
                span,
                f"a link leads from one task to another, and this one from `{target}` to itself",
                fix="remove it",
            )
            return
        behavior = next((task.behavior for task in self.spec.tasks if task.name == target), None)
        failed = any(isinstance(v, Failed) for v in self.scopes.builders[target].names.values())
        if failed and source.partition(".")[0] in reads(behavior, self.tasks):
            return  # it would read it, if that had not failed
        read = sorted({name for link, name in links if link.target == target})
        label = f"`{target}` reads " + (", ".join(f"`{r}`" for r in read) if read else "no other task")
        self.sink.report(
            "E414", span, f"`{target}` does not read `{source}`", label, fix=suggest(source, read or names)
        )

    def _feed(self, syntax: Syntax) -> tuple[Value, str] | None:
        span = syntax.span(syntax.root)
        name = syntax.dotted(syntax.root)
        found = self.scopes.representative_value(name) if name else None
        task, _, value = (name or "").partition(".")
        if found is None and not self.scopes.failed(task, value):
            known = self.scopes.representative_names()
            self.sink.report(
                "E415",
                span,
                "`feed` names a representative, such as `encode.r`",
                fix=suggest(name or "", known),
            )
        return found
