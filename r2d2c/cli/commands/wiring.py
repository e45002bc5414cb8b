"""`r2d2c wiring`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table
from r2d2c.cli.load import load
from r2d2c.cli.options import CreditOption, FormatOption, PluginOption, SetOption, SpecArgument
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.driver import Checked
    from r2d2c.graph import Graph
    from r2d2c.prove import Proof

NONE = "·"
_TINTS = {"gradient": "green", NONE: "dim", "plastic": "magenta"}


def command(
    spec: SpecArgument,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Turn each loss in the compiled graph and see which gradients move."),
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="A row for every parameter, none grouped.")] = False,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Show which loss trains which parameter, and prove it.

    The matrix is read off the training graph. With --prove the compiled graph is run: a marked gradient must
    move when its loss is turned, all others must stay the same to the last bit.
    """
    checked = load(spec, with_credit(settings, credit), plugins)

    from r2d2c.credit.registry import rules
    from r2d2c.passes.training import training_graph
    from r2d2c.wiring import wiring

    graph, known = checked.graph, rules(checked.rules)
    training = training_graph(graph, checked.ops, known)
    training = training.with_(storage={**graph.storage, **training.storage})
    trained = {name: row for name, row in training.storage.items() if row.kind == "param"}
    matrix = wiring(training, checked.ops, {**graph.losses, **training.losses}, trained)
    dropped = _dropped(checked)
    proof = _prove(checked) if prove else None
    if format_ == "json":
        print_json(_json(checked, training, matrix, dropped, proof))
    else:
        _show(checked, training, matrix, dropped, all_)
        if proof is not None:
            _show_proof(proof)
    if proof is not None and not proof.ok:
        raise typer.Exit(1)


def _prove(checked: Checked) -> Proof:
    from r2d2c.api import compile
    from r2d2c.prove import prove

    return prove(compile(checked))


def _dropped(checked: Checked) -> dict[str, str]:
    """The distances that do not train, with the link that is why."""
    from r2d2c.credit.registry import rules
    from r2d2c.passes.credit import active_losses

    graph, known = checked.graph, rules(checked.rules)
    active = active_losses(graph, known)
    found = {}
    for name, loss in graph.losses.items():
        if name not in active:
            link = next(
                link
                for link in graph.links
                if link.source_task == loss.owner and not known[link.credit.rule].keeps_distance
            )
            found[name] = f"{link.name} has credit `{link.credit}`"
    return found


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that the same losses train in the same way."""

    name: str
    parameters: tuple[str, ...]
    entries: tuple[str | None, ...]


def groups(
    checked: Checked, training: Graph, matrix: Mapping[str, Mapping[str, str | None]], all_: bool = False
) -> list[Group]:
    """Neighbours of one behavior or representative with equal entries as one group, in the spec's order.

    What credit rules add comes last.
    """
    from r2d2c.regions import homes

    home = homes(checked.graph)
    found: list[tuple[tuple[str, tuple[str | None, ...]], list[str]]] = []
    for name, row in training.storage.items():
        if row.kind != "param":
            continue
        own = home.get(row.owner, row.owner) if name in checked.graph.storage else f"{row.owner}'s credit"
        key = (own, tuple(entries[name] for entries in matrix.values()))
        if found and found[-1][0] == key and not all_:
            found[-1][1].append(name)
        else:
            found.append((key, [name]))
    names = [_common(members, owner) for (owner, _), members in found]
    result = []
    for ((_, entries), members), name in zip(found, names, strict=True):
        plain = name if names.count(name) == 1 else f"{name} ({members[0]} …)"
        result.append(Group(plain, tuple(members), entries))
    return result


def _common(names: list[str], home: str) -> str:
    """What the names share, ``encode.h.*``."""
    if len(names) == 1:
        return names[0]
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return ".".join([*parts[0][:shared], "*"]) if shared else f"{home}.*"


def _show(
    checked: Checked,
    training: Graph,
    matrix: Mapping[str, Mapping[str, str | None]],
    dropped: Mapping[str, str],
    all_: bool,
) -> None:
    from r2d2c.plan_sizes import elements
    from r2d2c.wiring import explained

    storage = training.storage
    found = groups(checked, training, matrix, all_)
    heading(f"{checked.name}: which loss trains which parameters")
    losses = list(matrix)
    width = shutil.get_terminal_size((100, 24)).columns
    words = max((len(g.name) for g in found), default=0) + 12
    numbered = words + sum(max(len(loss), 8) + 3 for loss in losses) > max(width, 60)
    columns = [str(k) for k in range(1, len(losses) + 1)] if numbered else losses
    rows = []
    for group in found:
        numbers = sum(elements(storage[name].type) for name in group.parameters)
        cells = [_cell(entry, numbered) for entry in group.entries]
        rows.append((group.name, f"{numbers:,}", *cells))
    tints = _TINTS | {"g": "green"}
    print_table(("parameters", "size", *columns), rows, "lr" + "c" * len(columns), tints)
    print()
    longest = max(map(len, losses), default=0)
    said = {loss: explained(training, loss) for loss in losses}
    for number, loss in enumerate(losses, 1):
        if numbered or said[loss]:
            print(f"{f'{number:>3}  ' if numbered else ''}{loss:<{longest}}  {said[loss]}".rstrip())
    if numbered or any(said.values()):
        print()
    _legend(training, found, dropped, numbered)


def _cell(entry: str | None, short: bool) -> str:
    if entry is None:
        return NONE
    return {"gradient": "g", "plastic": "p"}.get(entry, entry.removeprefix("rule:")) if short else entry


def _legend(training: Graph, found: list[Group], dropped: Mapping[str, str], short: bool) -> None:
    marks = {entry for group in found for entry in group.entries}
    if "gradient" in marks:
        print(f"{'g' if short else 'gradient'}: the gradient of this loss trains these parameters")
    if "plastic" in marks:
        print(f"{'p' if short else 'plastic'}: they learn from their own activity")
    for entry in sorted(e for e in marks if e and e.startswith("rule:")):
        print(
            f"{_cell(entry, short)}: the credit rule of this name trains them, with what it makes of this loss or δ"
        )
    if None in marks:
        print(f"{NONE}: this loss does not reach them")
    for loss, why in dropped.items():
        print(f"\nThe distance of `{loss}` is not used: {why}. `keep: own` in the task would keep it.")
    # The tables of op graphs are integers, and nothing that could learn.
    rows = [row for row in training.storage.values() if row.type is None or row.type.dtype != "i64"]
    frozen = [row.name for row in rows if row.kind == "frozen"]
    if frozen:
        more = f" and {len(frozen) - 4} more" if len(frozen) > 4 else ""
        print(f"\nFrozen, so not shown: {', '.join(frozen[:4])}{more}.")


def _show_proof(proof: Proof) -> None:
    marked = sum(entry.expected is not None for entry in proof.entries)
    print()
    if proof.ok:
        print(
            f"proved: {marked:,} marked gradients moved with their losses, "
            f"{len(proof.entries) - marked:,} others stayed the same to the last bit"
        )
        return
    for failure in proof.failures:
        print(f"not as marked: {failure}", file=sys.stderr)
    print(
        f"NOT proved: {plural(len(proof.failures), 'entry', 'entries')} of {len(proof.entries):,}",
        file=sys.stderr,
    )


def _json(
    checked: Checked,
    training: Graph,
    matrix: Mapping[str, Mapping[str, str | None]],
    dropped: Mapping[str, str],
    proof: Proof | None,
) -> dict[str, Any]:
    from r2d2c.wiring import explained

    result: dict[str, Any] = {
        "model": checked.name,
        "wiring": matrix,
        "groups": [
            {
                "name": group.name,
                "parameters": list(group.parameters),
                "losses": dict(zip(matrix, group.entries, strict=True)),
            }
            for group in groups(checked, training, matrix)
        ],
        "rows": {row: text for row in matrix if (text := explained(training, row))},
        "dropped": dict(dropped),
    }
    if proof is not None:
        result["proof"] = {
            "ok": proof.ok,
            "entries": len(proof.entries),
            "failures": [
                {"loss": f.loss, "parameter": f.parameter, "expected": f.expected, "moved": f.moved}
                for f in proof.failures
            ],
        }
    return result
