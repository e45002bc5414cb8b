"""Attaching credit: every link's rule says what the upper task reads while the model learns.

The result still has calls; representatives enter losses and behaviors as `leaf`s, from which their own gradient
is taken back, and enter other representatives as `stop`s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from r2d2c.credit.guard import ask, ask_value
from r2d2c.credit.record import CreditRule
from r2d2c.graph import Graph, Link, Loss, Node, Region, Value
from r2d2c.ops.record import Op
from r2d2c.ops.registry import builtin
from r2d2c.passes.building import AGAIN, GraphBuilder, in_order
from r2d2c.passes.edges import AttachedEdge, AttachedNetwork
from r2d2c.source import Span

# What reads a value and sends nothing back to it.
_APART = ("stop", "leaf", "vjp")


def active_losses(graph: Graph, rules: Mapping[str, CreditRule]) -> dict[str, Loss]:
    """The losses that train: a task below a link whose rule is not local has its distance dropped, unless it is
    an output or says ``keep: own``."""
    behaviors_out = output_tasks(graph)
    dropped = set()
    for link in graph.links:
        task = graph.tasks[link.source_task]
        rule = rules[link.credit.rule]
        if not rule.keeps_distance and not task.keep_own and task.name not in behaviors_out:
            dropped.add(task.name)
    return {
        name: loss
        for name, loss in graph.losses.items()
        if loss.rule is not None or loss.owner not in dropped
    }


def output_tasks(graph: Graph) -> set[str]:
    """Tasks one of whose values is an output, directly or through an output expression."""
    nodes = {node.id: node for node in graph.body.nodes}
    found = set()
    for port in graph.body.outputs:
        if port.name in graph.hidden:
            continue
        node = nodes[port.value.node]
        if node.id in graph.tasks:
            found.add(node.id)
        for value in node.inputs if node.id not in graph.tasks else ():
            if value is not None and value.node in graph.tasks:
                found.add(value.node)
    return found


class AttachCredit(GraphBuilder):
    """The pass. `run` gives a graph of stage "training" that has no gradients yet."""

    def __init__(
        self, graph: Graph, rules: Mapping[str, CreditRule], ops: Mapping[str, Op] | None = None
    ) -> None:
        super().__init__(graph, builtin() if ops is None else ops)
        self.rules = rules
        self.losses = active_losses(graph, rules)
        self.edges: list[AttachedEdge] = []
        self._errors: dict[Value, tuple[Value, Value]] = {}
        self._deltas: dict[Value, tuple[Value, Value]] = {}
        self._true: dict[Value, Value | None] = {}
        self._runs: dict[str, str] = {}

    # -- the pass
    def run(self) -> Graph:
        graph, main = self.graph, self.graph.body
        waiting = {node.id: node for node in main.nodes}
        links = {(link.target, link.port): link for link in graph.links}
        order = [n.id for n in main.nodes if n.op in ("port", "constant", "param")]
        order += [loss.value.node for loss in self.losses.values()]
        order += [port.value.node for port in main.outputs]
        for id_ in order:
            self._visit(id_, waiting, links)
        self._let_rules_finish()
        tasks = {
            name: replace(
                task,
                representative=task.representative if task.representative in self.done else None,
                loss=task.loss if task.loss in self.losses else None,
            )
            for name, task in graph.tasks.items()
        }
        nodes = tuple(in_order(self.nodes))
        region = Region(main.name, main.kind, main.inputs, main.outputs, nodes, main.origin)
        return graph.with_(
            stage="training",
            regions={**graph.regions, main.name: region},
            types=self.types,
            storage=self.storage,
            losses=self.losses,
            tasks=tasks,
        )

    def _visit(self, root: str, waiting: Mapping[str, Node], links: Mapping[tuple[str, int], Link]) -> None:
        """Append a node after everything it needs; a loop, since chains of tasks may be long."""
        stack = [root]
        while stack:
            id_ = stack[-1]
            if id_ in self.done:
                stack.pop()
                continue
            node = waiting[id_]
            needed = [v.node for v in self._sources(node, links) if v.node not in self.done]
            if needed:
                stack.extend(reversed(needed))
                continue
            stack.pop()
            inputs = tuple(
                self._input(node, position, value, links) for position, value in enumerate(node.inputs)
            )
            self.done.add(id_)
            self.nodes.append(replace(node, inputs=inputs))

    def _sources(self, node: Node, links: Mapping[tuple[str, int], Link]) -> list[Value]:
        found = []
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            link = links.get((node.id, position))
            found.append(value)
            if link is not None and link.feed is not None and self.rules[link.credit.rule].takes_feed:
                # With `feed` the behavior below is not needed for this task to learn.
                found[-1] = link.feed
        return found

    def _input(
        self, node: Node, position: int, value: Value | None, links: Mapping[tuple[str, int], Link]
    ) -> Value | None:
        if value is None:
            return None
        link = links.get((node.id, position))
        if link is not None:
            edge = self._edge(link)
            attach = edge.rule.attach
            if attach is None:
                return edge.stop(edge.value)
            return ask_value(edge.rule, link, "attach", edge, self.types, self.types[link.source])
        if value.node.endswith(".representative"):
            return self.stop(value) if node.id.endswith(".representative") else self.leaf(value, cut=False)
        return value

    def _edge(self, link: Link) -> AttachedEdge:
        rule = self.rules[link.credit.rule]
        # Named after the task below; if links of this rule leave several of its values, after the value as well.
        several = any(
            other.source != link.source
            and other.source_task == link.source_task
            and other.credit.rule == rule.name
            for other in self.graph.links
        )
        port = self._name(link.source).rpartition(".")[2]
        place = f"{link.source_task}.{rule.name}" + (f".{port}" if several else "")
        edge = AttachedEdge(
            self, rule, place, link.source_task, link.origin or link.credit.origin, self, link
        )
        self.edges.append(edge)
        return edge

    def _let_rules_finish(self) -> None:
        position = {node.id: k for k, node in enumerate(self.nodes)}
        self.edges.sort(key=lambda edge: position[edge.value.node])
        once: set[tuple[Value, str]] = set()
        for edge in self.edges:
            if edge.rule.signal is not None and (edge.value, edge.rule.name) not in once:
                once.add((edge.value, edge.rule.name))
                wanted = self.types[edge.value]
                delta = ask_value(edge.rule, edge.link, "signal", edge, self.types, wanted)
                edge.signal(edge.taught or edge.value, delta)
        for rule in {edge.rule.name: edge.rule for edge in self.edges}.values():
            if rule.finish is not None:
                edges = tuple(edge for edge in self.edges if edge.rule is rule)
                place, origin = rule.name, edges[0].origin
                network = AttachedNetwork(self, rule, place, edges[0].owner, origin, self, edges)
                ask(rule, [edge.link for edge in edges], "finish", network)
        self._cut_for_deltas()

    # -- what edges ask for
    def _called(self, task: str) -> Node:
        return next(node for node in self.nodes if node.id == task)

    def reads(self, task: str) -> tuple[Value, ...]:
        """What a task's behavior reads while it learns."""
        return tuple(v for v in self._called(task).inputs if v is not None)

    def tasks(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.nodes if node.id in self.graph.tasks)

    def loss_reads(self, loss: str) -> tuple[Value, ...]:
        node = next(node for node in self.nodes if node.id == self.losses[loss].value.node)
        return tuple(v for v in node.inputs if v is not None)

    def gives(self, task: str) -> tuple[Value, ...]:
        """The values of a task's behavior."""
        return tuple(Value(task, port) for port in range(len(self._called(task).outputs)))

    def call_again(
        self, task: str, instead: Mapping[Value, Value], name: str, origin: Span | None
    ) -> tuple[Value, ...]:
        return self._again(self._called(task), instead, f"{task}.{name}", origin)

    def loss_again(self, loss: str, instead: Mapping[Value, Value], name: str, origin: Span | None) -> Value:
        value = self.losses[loss].value
        made = self._again(self._called(value.node), instead, f"{loss}.loss.{name}", origin)[value.port]
        row = self.losses[loss]
        self.losses[loss] = replace(row, again=(*row.again, made))
        return made

    def _again(
        self, node: Node, instead: Mapping[Value, Value], id_: str, origin: Span | None
    ) -> tuple[Value, ...]:
        inputs = tuple(instead.get(v, v) if v is not None else None for v in node.inputs)
        again = replace(node, id=self.unique(id_), inputs=inputs, origin=origin or node.origin)
        return self._append(again, [self.types[Value(node.id, p)] for p in range(len(node.outputs))])

    def _append(self, node: Node, types: Sequence[object]) -> tuple[Value, ...]:
        self.nodes.append(node)
        values = tuple(Value(node.id, port) for port in range(len(node.outputs)))
        self.types.update(zip(values, types, strict=True))  # type: ignore[arg-type]
        return values

    def run_again(self, value: Value, origin: Span | None) -> Value:
        """A task's value from a second run of it and of the tasks below that run again, if all links to it are cut."""
        task = value.node
        if task not in self._runs:
            reads, below = self.reads(task), {stop: of for of, stop in self.stops.items()}
            if any(v.node in self.graph.tasks or self.op_of(v) == "leaf" for v in reads):
                return value
            instead = {
                v: self.stop(Value(self._runs[below[v].node], below[v].port))
                for v in reads
                if v in below and below[v].node in self._runs
            }
            self._runs[task] = self.call_again(task, instead, AGAIN, origin)[0].node
        return Value(self._runs[task], value.port)

    def apply(self, region: str, values: Sequence[Value], origin: Span | None) -> Value:
        """Call the region of an option."""
        callee = self.graph.regions[region]
        outputs = tuple(port.name for port in callee.outputs)
        types = [self.graph.types[port.value] for port in callee.outputs]
        node = Node(self.unique(f"{region}.call"), "call", tuple(values), {"region": region}, outputs, origin)
        return self._append(node, types)[0]

    def errors(self, below: str | None = None) -> list[tuple[Value, Value]]:
        """Every output that a loss at the end of the graph reads, and ∂L/∂output; of one task only those above it."""
        ends = output_tasks(self.graph)
        losses = {
            loss.value.node
            for loss in self.losses.values()
            if (loss.owner is None or loss.owner in ends) and loss.rule is None
        }
        read = [v for node in self.nodes if node.id in losses for v in node.inputs if v is not None]
        whole = {leaf: value for value, (leaf, _) in self._errors.items()}
        above = ends if below is None else ends & self._above(below)
        outputs = dict.fromkeys(whole.get(value, value) for value in read)
        return [
            (value, self.error(value))
            for value in outputs
            if value.node in above and self.types[value].floating
        ]

    def _above(self, task: str) -> set[str]:
        """The tasks that a task's values go to, directly or through others."""
        found: set[str] = set()
        stack = [task]
        while stack:
            name = stack.pop()
            more = {link.target for link in self.graph.links if link.source_task == name} - found
            found |= more
            stack.extend(more)
        return found

    def error(self, value: Value) -> Value:
        """Cut a task's value off what reads it: ∂L/∂value becomes a value, which then trains the task."""
        if value not in self._errors:
            name = self._name(value)
            leaf = self.fresh_leaf(f"{name}.output", value, cut=True)
            for number, node in enumerate(self.nodes):
                if node.op not in (*_APART, "signal") and value in node.inputs:
                    inputs = tuple(leaf if v == value else v for v in node.inputs)
                    self.nodes[number] = replace(node, inputs=inputs)
            self._close_at(value, leaf)
            error = self.add(f"{name}.error", "gradient", (leaf,), {})
            self.signal(value, error, f"{name}.error", None, self.origin(value))
            self._errors[value] = leaf, error
        return self._errors[value][1]

    def delta(self, value: Value) -> Value:
        """As `error`, with what other rules send: cut off when all rules have finished, since they may still add to it."""
        if value not in self._deltas:
            name = self._name(value)
            leaf = self.fresh_leaf(f"{name}.taught", value, cut=True)
            self._deltas[value] = leaf, self.add(f"{name}.taught.delta", "gradient", (leaf,), {})
        return self._deltas[value][1]

    def _close_at(self, value: Value, leaf: Value) -> None:
        """Let losses whose gradient is known at ``value`` send it to the ``leaf`` that it was cut off with."""
        for name, loss in self.losses.items():
            if loss.closed is not None and loss.closed[0] == value:
                self.losses[name] = replace(loss, closed=(leaf, loss.closed[1]))

    def _cut_for_deltas(self) -> None:
        for value, (leaf, delta) in self._deltas.items():
            for number, node in enumerate(self.nodes):
                if node.op not in _APART and value in node.inputs:
                    inputs = tuple(leaf if v == value else v for v in node.inputs)
                    self.nodes[number] = replace(node, inputs=inputs)
            self._close_at(value, leaf)
            self.signal(value, delta, delta.node, None, self.origin(value))

    def true_gradient(self, value: Value, origin: Span | None) -> Value:
        """∂L/∂value over the links that read it as a leaf; a loop, from the top down, since chains may be long."""
        stack = [value]
        while stack:
            of = stack[-1]
            leaf = self.leaves.get(of)
            above = [o for task in self.tasks() if leaf in self.reads(task) for o in self._floating(task)]
            waiting = [o for o in above if o not in self._true]
            if of not in self._true and leaf is not None and waiting:
                stack += waiting
                continue
            stack.pop()
            if of not in self._true:
                self._true[of] = self._over_links(of, above, origin)
        found = self._true[value]
        if found is None:  # nothing comes back
            return self.add(
                f"{self._name(value)}.true", "gradient", (self.leaf(value, cut=True),), {}, origin
            )
        return found

    def _over_links(self, value: Value, above: Sequence[Value], origin: Span | None) -> Value | None:
        """One vjp through the tasks that give the values ``above``."""
        found = {o: c for o in above if (c := self._whole(o)) is not None}
        if value not in self.leaves or not found:
            return None
        name, leaf = f"{self._name(value)}.true", self.leaves[value]
        return self.vjp(name, list(found), [leaf], list(found.values()), origin)[0]

    def _whole(self, value: Value) -> Value | None:
        """∂L/∂value from losses and links: both from what reads it as it is, and from what reads it as a leaf."""
        links = self._true[value]
        direct = any(n.op not in (*_APART, "signal") and value in n.inputs for n in self.nodes)
        if not direct and value not in self._errors:
            return links
        error = self.error(value)
        return error if links is None else self.add(f"{error.node}.whole", "add", (error, links), {})

    def _floating(self, task: str) -> list[Value]:
        return [value for value in self.gives(task) if self.types[value].floating]
