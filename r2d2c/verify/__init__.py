"""The checks of the typed graph: what would run and silently do nothing, or the wrong thing.

Every check is a record of one literal table. It looks at a `Context` and reports to its sink.
"""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.credit.record import CreditRule
from r2d2c.credit.registry import rules as credit_rules
from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph
from r2d2c.ops.record import Op
from r2d2c.syntax.spec import Spec
from r2d2c.verify.batch import check_batch
from r2d2c.verify.context import Check, Context
from r2d2c.verify.credit import check_default, check_gradients, check_links
from r2d2c.verify.dead import check_dead
from r2d2c.verify.distillation import check_distillation
from r2d2c.verify.eprop import check_eprop
from r2d2c.verify.inference import check_outputs
from r2d2c.verify.learning import check_losses, check_parameters, check_weights
from r2d2c.verify.loops import check_loop_values, check_loops, check_statistics
from r2d2c.verify.memories import check_memories
from r2d2c.verify.metrics import check_metrics
from r2d2c.verify.op_graphs import check_op_graphs
from r2d2c.verify.places import check_places
from r2d2c.verify.sizes import check_sizes
from r2d2c.verify.teaching import check_classes, check_teach
from r2d2c.verify.unused import check_names, check_ports, check_tasks, check_values

CHECKS: tuple[Check, ...] = (
    # What the later ones rely on: rules that exist and sizes that are known.
    Check("the spec's credit", check_default, first=True),
    Check("the credit of links", check_links, first=True),
    Check("sizes of storage", check_sizes, first=True),
    Check("metrics", check_metrics, first=True),
    # What is made and never used.
    Check("tasks that nothing needs", check_tasks),
    Check("inputs and targets that nothing reads", check_ports),
    Check("values that nobody reads", check_values),
    Check("values of loops that nobody reads", check_loop_values),
    Check("dims and blocks that nobody uses", check_names),
    # What runs again and again.
    Check("carries and halting of loops", check_loops),
    Check("running statistics in loops", check_statistics),
    Check("memories that nobody reads", check_memories),
    Check("eligibility traces", check_eprop),
    Check("op graphs and what reads them", check_op_graphs),
    Check("what is wired between places", check_places),
    # What learns, and from what.
    Check("weights of losses", check_weights),
    Check("losses that train nothing", check_losses),
    Check("parameters that no loss trains", check_parameters),
    Check("gradients that credit rules take", check_gradients),
    Check("what teaches a representative", check_teach),
    Check("representatives of class labels", check_classes),
    Check("ops that can never learn", check_dead),
    Check("losses over steps and widths", check_distillation),
    # What would differ when the model is used.
    Check("samples that are mixed", check_batch),
    Check("outputs that are random, or always the same", check_outputs),
)


def verify(
    graph: Graph, spec: Spec, ops: Mapping[str, Op], rules: tuple[CreditRule, ...], sink: Sink
) -> Graph:
    """The same graph, after reporting to the sink. ``rules``: those that plug-ins add."""
    context = Context(graph, spec, ops, credit_rules(rules), sink)
    for check in CHECKS:
        if check.first:
            check.run(context)
    if sink.failed:
        return graph
    for check in CHECKS:
        if not check.first:
            check.run(context)
    return graph
