"""`r2d2c ops`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from r2d2c.cli.console import colored, heading, print_json, print_table
from r2d2c.cli.options import FormatOption, PluginOption
from r2d2c.credit.options import Option, call, default_text, described, options
from r2d2c.credit.record import CreditRule
from r2d2c.credit.registry import rules
from r2d2c.diagnostics import suggest
from r2d2c.opkind_formulas import LETTERS
from r2d2c.opkinds import OpKind
from r2d2c.ops.describe import default_text as op_default
from r2d2c.ops.describe import signature
from r2d2c.ops.record import Arg, Op
from r2d2c.ops.registry import FAMILIES, Ops
from r2d2c.plugins import collect

_KINDS = {
    "value": "tensor",
    "values": "tensors",
    "param": "parameter",
    "size": "size",
    "sizes": "sizes",
    "choice": "one of",
    "formula": "predicate on places",
}
_TRAITS = {
    "distance": "gives a scalar to be minimised: a task's `distance` or a loss",
    "random": "draws numbers, the same ones for the same seed, node and step",
    "no_gradient": "no gradient flows through it",
    "train_only": "the identity when the model is used",
}


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="An op or a family; without one, all are listed.", show_default=False
        ),
    ] = None,
    credit: Annotated[bool, typer.Option("--credit", help="The credit rules of links, not the ops.")] = False,
    kinds: Annotated[bool, typer.Option("--kinds", help="What the ops of op graphs may be.")] = False,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """List the ops that a spec may use, by family, or describe one with its arguments and examples."""
    found = collect(plugins or ())
    if credit:
        _credit(name, rules(found.rules).values(), format_)
        return
    ops = Ops(found.ops)
    if kinds:
        _kinds(name, ops, format_)
        return
    families = {family: list(records) for family, records in FAMILIES.items()}
    added = [op for op in found.ops if not isinstance(op, OpKind)]
    if added:
        families["from plug-ins"] = added
    if name is not None and (name in ops or name not in families):
        _one(name, ops, families, format_)
        return
    if name is not None:
        families = {name: families[name]}
    if format_ == "json":
        print_json({family: [_json(op) for op in records] for family, records in families.items()})
        return
    for family, records in families.items():
        heading(family)
        print_table(("", ""), [(signature(op), _first_sentence(op.doc)) for op in records])
        print()
    print("`r2d2c ops NAME` describes one. `r2d2c ops --credit` lists the credit rules.")


def _kinds(name: str | None, ops: Ops, format_: str) -> None:
    if name is not None and name not in ops.kinds:
        near = suggest(name, ops.kinds)
        raise typer.BadParameter(
            f"there is no kind `{name}`{f'; {near.text}' if near else ''}", param_hint="NAME"
        )
    shown = [kind for kind in ops.kinds.values() if name in (None, kind.name)]
    if format_ == "json":
        print_json(
            [
                {"name": kind.name, "arity": kind.arity, "formula": kind.formula, "doc": kind.doc}
                for kind in shown
            ]
        )
        return
    print_table(
        ("", ""),
        [(f"{kind.name}({', '.join(LETTERS[: kind.arity])})", kind.doc or kind.formula) for kind in shown],
    )


def _one(name: str, ops: Ops, families: dict[str, list[Op]], format_: str) -> None:
    op = ops.get(name)
    if op is None:
        near = suggest(name, [*ops, *families])
        raise typer.BadParameter(
            f"there is no op `{name}`{f'; {near.text}' if near else ''}", param_hint="NAME"
        )
    if format_ == "json":
        print_json(_json(op))
        return
    heading(signature(op))
    print(f"{op.doc}\n")
    print_table(("", "", "", ""), [_argument(arg) for arg in op.args])
    if len(op.outputs) > 1:
        print(f"\nGives {len(op.outputs)} values: {', '.join(op.outputs)}")
    for trait in sorted(op.traits):
        print(f"\nNote: {_TRAITS[trait]}.")
    if op.onnx is None:
        print("\nNote: it has no ONNX form of its own; the exporter asks torch.onnx for it.")
    if op.examples:
        print("\nExamples:")
        for example in op.examples:
            inputs = ", ".join(f"{key}: {type_}" for key, type_ in example.inputs.items())
            print(f"  {example.call}{f'    with {inputs}' if inputs else ''}")
    family = next((family for family, records in families.items() if op in records), None)
    if family:
        rest = [other.name for other in families[family] if other is not op]
        print(f"\nIn the family `{family}`{f', with {_wrapped(rest)}' if rest else ''}.")


def _wrapped(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _argument(arg: Arg) -> tuple[str, str, str, str]:
    kind = _KINDS.get(arg.kind, arg.kind)
    if arg.kind == "choice":
        kind = " | ".join(arg.choices)
    default = "" if arg.required or arg.kind == "param" else f"default {op_default(arg)}"
    return f"  {arg.name}", kind, default, arg.doc


def _first_sentence(doc: str) -> str:
    first = doc.partition("\n")[0]
    end = first.find(". ")
    return first if end < 0 else first[: end + 1]


def _json(op: Op) -> dict[str, Any]:
    return {
        "name": op.name,
        "signature": signature(op),
        "doc": op.doc,
        "arguments": [
            {
                "name": arg.name,
                "kind": arg.kind,
                "required": arg.required and arg.kind != "param",
                "default": None if arg.required else arg.default,
                "choices": list(arg.choices),
                "doc": arg.doc,
            }
            for arg in op.args
        ],
        "outputs": list(op.outputs),
        "traits": sorted(op.traits),
        "onnx": op.onnx is not None,
        "examples": [{"call": example.call, "inputs": example.inputs} for example in op.examples],
    }


def _credit(name: str | None, known: Iterable[CreditRule], format_: str) -> None:
    found = {rule.name: rule for rule in known}
    if name is not None and name not in found:
        near = suggest(name, found)
        raise typer.BadParameter(
            f"there is no credit rule `{name}`{f'; {near.text}' if near else ''}", param_hint="NAME"
        )
    chosen = [found[name]] if name is not None else list(found.values())
    if format_ == "json":
        keys = ("name", "doc", "delta", "attaches", "keeps_distance", "takes_feed", "phases", "colour")
        print_json(
            [
                {key: getattr(rule, key) for key in keys} | {"options": list(map(_option, options(rule)))}
                for rule in chosen
            ]
        )
        return
    for rule in chosen:
        heading(f"{_swatch(rule)}{call(rule)}")
        print(f"  {rule.doc}")
        print(f"  What comes back (δ): {rule.delta}. It may stand on: {', '.join(rule.attaches)}.")
        kept = (
            "keeps its distance" if rule.keeps_distance else "loses its distance, unless it says `keep: own`"
        )
        feed = "allowed" if rule.takes_feed else "not allowed"
        print(f"  A task below that is not an output {kept}. `feed:` is {feed}.")
        if options(rule):
            print_table(("", "", "", ""), [_shown(option) for option in options(rule)])
        print()


def _shown(option: Option) -> tuple[str, str, str, str]:
    default = "" if option.required or option.default is None else f"default {default_text(option)}"
    return f"  {option.name}", described(option).replace("`", ""), default, option.doc


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "kind": option.kind,
        "required": option.required,
        "default": None if option.required else option.default,
        "choices": list(option.choices),
        "minimum": option.minimum,
        "maximum": option.maximum,
        "takes": list(option.takes),
        "doc": option.doc,
    }


def _swatch(rule: CreditRule) -> str:
    if not colored(sys.stdout):
        return ""
    red, green, blue = (int(rule.colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"\x1b[38;2;{red};{green};{blue}m━━\x1b[0m "
