"""`r2d2c graph`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from r2d2c.cli.console import check_target, write_result
from r2d2c.cli.load import load
from r2d2c.cli.options import CreditOption, OutOption, PluginOption, SetOption, SpecArgument
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.opgraph import Topology


def command(
    spec: SpecArgument,
    out: OutOption = None,
    stage: Annotated[
        Literal["tasks", "inference", "training"],
        typer.Option("--stage", help="Tasks and links, or every node of one stage."),
    ] = "tasks",
    as_: Annotated[
        Literal["mermaid", "dot", "json"] | None,
        typer.Option(
            "--as", help="The default is what the ending of FILE says, else Mermaid.", show_default=False
        ),
    ] = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
) -> None:
    """Draw a spec as Mermaid or DOT text, or write what is drawn as JSON.

    Tasks are groups, links have the colour of their credit, losses point to what they train.

    `-o model.mmd` is for Markdown pages, `-o model.dot` for Graphviz: `dot -Tsvg model.dot > model.svg`,
    `-o model.json` for programs that draw otherwise: it has the places of units and the ops of op graphs too.
    SPEC may be the folder of a run: then op graphs are as they have grown.
    """
    if out is not None:
        check_target(out)
    ending = {".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".json": "json"}
    if as_ is None and out is not None and out.suffix not in ending:
        raise typer.BadParameter(f"{out} should end in .mmd, .dot or .json, or say --as", param_hint="-o")
    form = as_ or (ending[out.suffix] if out is not None else "mermaid")
    changes = with_credit(settings, credit)
    grown: dict[str, Topology] = {}
    learned: dict[str, list[list[float]]] = {}
    from r2d2c.train.pack import is_run

    if is_run(spec):
        from r2d2c.train.replay import placed
        from r2d2c.train.run import open_run

        run = open_run(spec, plugins=plugins or ())
        checked = run.check(changes or ())
        grown, learned = placed(run)
    else:
        checked = load(spec, changes, plugins)

    from r2d2c.credit.registry import rules
    from r2d2c.draw import picture, picture_of_nodes
    from r2d2c.draw_json import to_json
    from r2d2c.draw_text import to_dot, to_mermaid
    from r2d2c.passes.inline import inference_graph
    from r2d2c.passes.training import training_graph
    from r2d2c.wiring import wiring

    graph, known = checked.graph, rules(checked.rules)
    if stage == "inference":
        drawn = picture_of_nodes(inference_graph(graph, checked.ops))
    else:
        training = training_graph(graph, checked.ops, known)
        if stage == "training":
            drawn = picture_of_nodes(training, graph.storage)
        else:
            every = {**graph.storage, **training.storage}
            trained = {name: row for name, row in every.items() if row.kind == "param"}
            losses = {**graph.losses, **training.losses}
            matrix = wiring(training, checked.ops, losses, trained)
            drawn = picture(graph, known, matrix, training, checked.spec.memories)
    if form == "json":
        write_result(out, to_json(drawn, graph, stage, grown=grown, learned=learned))
    else:
        write_result(out, to_dot(drawn) if form == "dot" else to_mermaid(drawn))
