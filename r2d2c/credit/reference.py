"""The credit rules, written from the records: ``python -m r2d2c.credit.reference > grammar/credit.md``."""

from __future__ import annotations

from collections.abc import Iterator

from r2d2c.credit.options import call, default_text, described, options
from r2d2c.credit.record import CreditRule
from r2d2c.credit.registry import BUILTIN

_HEAD = """\
# Credit rules

Written from the records by `python -m r2d2c.credit.reference`; `r2d2c ops --credit` prints them too. The
credit of a link `h: u -> v` says what `u` learns from `v`: δ is the signal that reaches `h` from above. It
stands at the link (`links:`), or as `credit:` for every link that names none; without either it is
`backprop`. `--credit RULE` on the command line is the credit of every link. Options are given by name, or in
their order; an option whose value is a block or an op names what the rule applies, as
`predictor=guess(64)`, and says to what. A rule of one's own is a record of about 15 lines: [docs/plugins.md](../docs/plugins.md).

| credit | δ at h | stands on | a lower task's own distance | `feed:` |
| --- | --- | --- | --- | --- |
"""


def reference() -> str:
    """The whole of ``grammar/credit.md``."""
    return (
        _HEAD
        + "".join(f"{line}\n" for rule in BUILTIN for line in _row(rule))
        + "".join(f"{line}\n" for rule in BUILTIN for line in _rule(rule))
    )


def _row(rule: CreditRule) -> Iterator[str]:
    kept = "kept" if rule.keeps_distance else "dropped, unless the task is an output or says `keep: own`"
    places = ", ".join(rule.attaches)
    yield f"| `{call(rule)}` | {rule.delta} | {places} | {kept} | {'yes' if rule.takes_feed else 'no'} |"


def _rule(rule: CreditRule) -> Iterator[str]:
    yield ""
    yield f"## {rule.name}"
    yield ""
    yield rule.doc
    if options(rule):
        yield ""
        yield "| option | what it is | default | |"
        yield "| --- | --- | --- | --- |"
    for option in options(rule):
        default = f"`{default_text(option)}`" if not option.required and option.default is not None else ""
        default = "must be given" if option.required else default
        yield f"| `{option.name}` | {described(option)} | {default} | {option.doc} |"
    if len(rule.phases) > 1:
        yield ""
        yield f"It runs in phases: {', '.join(rule.phases)}."


if __name__ == "__main__":
    print(reference(), end="")
