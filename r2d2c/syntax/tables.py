"""The grammar's LALR tables, kept beside it as JSON: loading them takes 4 ms, building them 35.

`grammar/tables.json` says which grammar and which Lark it was made from; for any other it is not used.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Any

import lark
from lark import Lark

from r2d2c.syntax.lexer import ExpressionLexer

STARTS = ["body", "expression", "signature", "link", "tensor_type"]
_LEXER = "@lexer"


def grammar_text() -> str:
    return files("r2d2c.grammar").joinpath("expressions.lark").read_text("utf-8")


def _made_from(grammar: str) -> str:
    return f"{hashlib.sha256(grammar.encode()).hexdigest()} lark {lark.__version__}"


def build(transformer: object) -> Lark:
    """The parser, from the grammar."""
    return Lark(
        grammar_text(),
        parser="lalr",
        lexer=ExpressionLexer,
        start=STARTS,
        transformer=transformer,
        maybe_placeholders=False,
    )


def are_current(text: str) -> bool:
    """Whether a text of `grammar/tables.json` was made from the grammar as it is, by this Lark."""
    return bool(json.loads(text)["made_from"] == _made_from(grammar_text()))


def dump() -> str:
    """A text for `grammar/tables.json`. Lark numbers its states by chance, so no two are alike."""
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = build(None).memo_serialize([TerminalDef, Rule])
    del data["options"]["transformer"]
    tables = {"made_from": _made_from(grammar_text()), "data": _plain(data), "memo": _plain(memo)}
    return json.dumps(tables, separators=(",", ":"), sort_keys=True) + "\n"


def load(transformer: object) -> Lark:
    """The parser, from the tables if they are those of the grammar."""
    found = files("r2d2c.grammar").joinpath("tables.json")
    if found.is_file():
        tables = json.loads(found.read_text("utf-8"), object_hook=_numbered)
        if tables["made_from"] == _made_from(grammar_text()):
            data = tables["data"]
            data["options"]["lexer"] = data["parser"]["lexer_conf"]["lexer_type"] = ExpressionLexer
            loaded: Lark = Lark._load_from_dict(data, tables["memo"], transformer=transformer)  # type: ignore[no-untyped-call]
            return loaded
    return build(transformer)


def _plain(value: Any) -> Any:
    """For JSON: numbers as keys get a mark, tuples become lists, Lark's tokens plain strings."""
    if isinstance(value, dict):
        return {f"#{k}" if isinstance(k, int) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is ExpressionLexer:
        return _LEXER
    return str(value) if isinstance(value, str) else value


def _numbered(items: dict[str, Any]) -> dict[Any, Any]:
    return {int(key[1:]) if key[:1] == "#" else key: value for key, value in items.items()}
