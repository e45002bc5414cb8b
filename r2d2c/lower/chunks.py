"""Splitting very long generated functions.

Python's compiler takes more than twice the time for a function twice as long, once it has some ten thousand
statements. Such a function becomes one that calls its parts; each part takes the values it reads and returns those
that later parts read.
"""

from __future__ import annotations

import re

LIMIT = 10_000
SIZE = 4_000
_WORD = re.compile(r"[^\W\d]\w*")
_DELETIONS = ";  "


def split_long(source: str, limit: int = LIMIT, size: int = SIZE) -> list[str]:
    """The source of a module with one function of flat statements, as fx writes it, split if that is long.

    Each text is to be run in the same scope, in order; apart they also take less memory to compile.
    """
    if source.count("\n") <= limit:
        return [source]
    head, signature, body = _parts(source)
    statements = [line.partition(_DELETIONS)[0] for line in body]
    chunks = [statements[at : at + size] for at in range(0, len(statements), size)]
    arguments = _WORD.findall(signature.partition("(")[2].partition(")")[0])
    made = dict.fromkeys(arguments, -1)
    last: dict[str, int] = dict.fromkeys(arguments, -1)
    reads: list[dict[str, None]] = []
    for number, chunk in enumerate(chunks):
        read: dict[str, None] = {}
        for statement in chunk:
            target, equals, value = statement.strip().partition(" = ")
            for word in _WORD.findall(value if equals else target):
                if word in made:
                    last[word] = number
                    if made[word] != number:
                        read[word] = None
            if equals:
                made[target] = number
        reads.append(read)
    parts, calls = [], []
    for number, chunk in enumerate(chunks):
        given = ", ".join(reads[number])
        kept = [name for name, where in made.items() if where == number and last.get(name, -1) > number]
        lines = [f"def part_{number}({given}):", *chunk]
        call = f"part_{number}({given})"
        if number == len(chunks) - 1:
            calls.append(f"    return {call}")
        else:
            lines.append(f"    return ({''.join(f'{name}, ' for name in kept)})")
            gone = [name for name in reads[number] if last[name] == number]
            calls.append(f"    ({''.join(f'{name}, ' for name in kept)}) = {call}" if kept else f"    {call}")
            if gone:
                calls.append(f"    {' = '.join(gone)} = None")
        parts.append("\n".join(lines))
    return [f"{text}\n" for text in (head, *parts, "\n".join([signature, *calls]))]


def _parts(source: str) -> tuple[str, str, list[str]]:
    """What stands above the function, its signature, and its statements."""
    lines = source.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("def "))
    body = [line for line in lines[start + 1 :] if line.strip()]
    return "\n".join(lines[:start]), lines[start], body
