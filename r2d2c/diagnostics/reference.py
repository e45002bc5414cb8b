"""Every diagnostic, from the catalog: ``python -m r2d2c.diagnostics.reference > docs/diagnostics.md``."""

from __future__ import annotations

from r2d2c.diagnostics.catalog import CATALOG

_HEAD = """\
# Diagnostics

Written from the catalog by `python -m r2d2c.diagnostics.reference`; `r2d2c explain CODE` prints one entry.
The letter is the severity (E error, W warning, N note), the first digit the stage; a code never gets another
meaning. A warning is silenced where it stands by `# r2d2c: allow(W450)`, on its line or on a comment line
above; `-W error` makes warnings errors.
"""
_STAGES = {
    "0": "files and YAML",
    "1": "syntax",
    "2": "names",
    "3": "types and shapes",
    "4": "tasks, credit and wiring",
    "5": "data and training",
    "6": "export",
}


def reference() -> str:
    """The whole of ``docs/diagnostics.md``."""
    lines = [_HEAD]
    for digit, stage in _STAGES.items():
        entries = sorted((e for e in CATALOG.values() if e.code[1] == digit), key=lambda e: e.code[1:])
        lines += [f"## {digit}xx: {stage}", "", "| code | what |", "| --- | --- |"]
        lines += [f"| [{e.code}](#{e.code.lower()}) | {e.title} |" for e in entries]
        for entry in entries:
            lines += ["", f"### {entry.code}", "", f"**{entry.title}**", "", entry.text]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
