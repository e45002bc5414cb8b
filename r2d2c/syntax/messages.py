"""What to say of a token that the grammar does not allow where it stands."""

from __future__ import annotations

from lark.lexer import Token

_CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB"}
_SHOWN = {"LPAR": "(", "LSQB": "[", "RPAR": ")", "RSQB": "]"}

Description = tuple[str, str, str, str | None, Token | None]


def describe_unexpected(token: Token, accepts: set[str], tokens: list[Token]) -> Description:
    """Code, message, label, remedy and the opening bracket that takes part, for an unexpected token."""
    opening = _innermost_open(token, tokens)
    if token.type in ("$END", "NEWLINE"):
        if opening is not None:
            shown = _SHOWN[opening.type]
            return (
                "E104",
                f"this `{shown}` is never closed",
                "expected its closing bracket here",
                None,
                opening,
            )
        return "E105", "the expression ends too early", "expected more here", None, None
    if token.type in _CLOSES:
        if opening is None:
            return "E106", f"this `{token}` closes nothing", "", "remove it, or add the opening bracket", None
        if opening.type != _CLOSES[token.type]:
            return "E106", f"`{token}` does not close `{opening}`", "", None, opening
        return "E107", f"`{token}` comes too early", "expected a value before it", None, None
    if token.type == "EQUAL":
        fix = "write `==` to compare; a name is given a value at the start of a statement"
        return "E107", "`=` cannot stand here", "", fix, None
    if token.type in ("RETURN", "AND", "OR", "NOT", "TRUE", "FALSE"):
        return (
            "E107",
            f"the word `{token}` cannot stand here",
            "it is a word of the language, not a name",
            None,
            None,
        )
    previous = _before(token, tokens)
    if previous is not None and previous.type == "MULTIPLICATIVE" and token == "*":
        return "E107", "`**` is not an operator here", "", "write `^` for a power", None
    if token.type in ("NAME", "NUMBER", "STRING") and previous is not None:
        return (
            "E108",
            f"`{token}` follows `{previous}` without an operator",
            "",
            "is a `,`, an operator or a line break missing?",
            None,
        )
    return "E107", f"`{token}` cannot stand here", "", None, None


def _before(token: Token, tokens: list[Token]) -> Token | None:
    previous = None
    for candidate in tokens:
        if candidate is token:
            return previous
        previous = candidate
    return previous


def _innermost_open(token: Token, tokens: list[Token]) -> Token | None:
    stack: list[Token] = []
    for candidate in tokens:
        if candidate is token:
            break
        if candidate.type in ("LPAR", "LSQB"):
            stack.append(candidate)
        elif candidate.type in _CLOSES and stack:
            stack.pop()
    return stack[-1] if stack else None
