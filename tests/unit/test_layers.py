"""Imports follow the layout: data flows one way, nothing goes round in a circle, checking never needs torch."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[2]
# A row stands above all that it imports at module level. Within a row files may import each other, but not in circles.
LAYERS = (
    ("r2d2c.source", "r2d2c.diagnostics"),
    ("r2d2c.syntax",),
    (
        "r2d2c.types",
        "r2d2c.graph",
        "r2d2c.regions",
        "r2d2c.loops",
        "r2d2c.hypernets",
        "r2d2c.sizes",
        "r2d2c.pause",
        "r2d2c.formulas",
        "r2d2c.growth",
        "r2d2c.seeds",
        "r2d2c.places",
        "r2d2c.opkinds",
        "r2d2c.opkind_formulas",
        "r2d2c.opgraph",
        "r2d2c.op_places",
        "r2d2c.mutations",
        "r2d2c.mutate_checks",
        "r2d2c.mutate",
        "r2d2c.mutation_choice",
        "r2d2c.mutation_log",
    ),
    ("r2d2c.ops",),
    ("r2d2c.credit",),
    ("r2d2c.resolve", "r2d2c.infer", "r2d2c.infer_checks", "r2d2c.infer_sizes"),
    ("r2d2c.verify", "r2d2c.passes", "r2d2c.wiring"),
    ("r2d2c.plugins", "r2d2c.printer", "r2d2c.print_loops", "r2d2c.syntax_printer"),
    ("r2d2c.driver",),
    (
        "r2d2c.plan",
        "r2d2c.plan_memories",
        "r2d2c.plan_sizes",
        "r2d2c.draw",
        "r2d2c.draw_bodies",
        "r2d2c.draw_loops",
        "r2d2c.draw_memories",
        "r2d2c.draw_op_graphs",
        "r2d2c.draw_places",
        "r2d2c.draw_json",
        "r2d2c.draw_credit",
        "r2d2c.draw_text",
        "r2d2c.html",
    ),
    ("r2d2c.lower", "r2d2c.backend", "r2d2c.sampling"),
    (
        "r2d2c.inputs",
        "r2d2c.compiled",
        "r2d2c.model",
        "r2d2c.tracing",
        "r2d2c.tracing_loops",
        "r2d2c.prove",
        "r2d2c.emit",
        "r2d2c.emit_loops",
        "r2d2c.emit_op_graphs",
        "r2d2c.emit_places",
        "r2d2c.emit_state",
        "r2d2c.emit_storage",
        "r2d2c.api",
    ),
    ("r2d2c.train",),
    ("r2d2c.cli", "r2d2c.__main__"),
)
# Only these may import torch when they are imported.
WITH_TORCH = (
    "r2d2c.lower",
    "r2d2c.inputs",
    "r2d2c.compiled",
    "r2d2c.model",
    "r2d2c.tracing",
    "r2d2c.tracing_loops",
    "r2d2c.emit_loops",
    "r2d2c.emit_op_graphs",
    "r2d2c.emit_places",
    "r2d2c.emit_state",
    "r2d2c.emit_storage",
    "r2d2c.prove",
    "r2d2c.sampling",
    "r2d2c.emit",
    "r2d2c.ops.functions",  # what training graphs call, and nothing imports
    "r2d2c.ops.module_op",  # for those who have an nn.Module, and so torch
)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "r2d2c").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules that a file imports when it is imported: not inside functions, not for type checkers."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(path.read_text("utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                todo += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            todo += [*node.body, *node.orelse, *node.finalbody]
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def layer(name: str) -> int | None:
    for number, row in enumerate(LAYERS):
        if any(name == part or name.startswith(part + ".") for part in row):
            return number
    return None


def test_no_circles():
    graph = nx.DiGraph(
        (name, other) for name, found in IMPORTS.items() for other in found if other in MODULES
    )
    cycles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    assert not cycles, cycles


def test_every_module_has_a_layer():
    assert not [name for name in MODULES if name != "r2d2c" and layer(name) is None]


@pytest.mark.parametrize("name", [n for n in MODULES if n != "r2d2c"])
def test_a_module_stands_above_what_it_imports(name):
    mine = layer(name)
    above = {o for o in IMPORTS[name] if o.startswith("r2d2c.") and (layer(o) or 0) > (mine or 0)}
    assert not above, f"{name} imports {above}, which stand above it"


def test_the_compiler_never_imports_a_backend():
    assert not [n for n, found in IMPORTS.items() if any(o.startswith("r2d2c.backends") for o in found)]


def test_torch_is_imported_only_where_graphs_are_lowered():
    found = {n for n, i in IMPORTS.items() if any(o == "torch" or o.startswith("torch.") for o in i)}
    assert not {n for n in found if not n.startswith(WITH_TORCH) and not n.startswith("r2d2c.train")}
