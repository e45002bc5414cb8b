"""`r2d2c new`."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer

from r2d2c.cli.console import check_target, write_file

Template = Literal["two_tasks", "mlp", "conv", "chain"]


def command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write.", show_default=False)],
    template: Annotated[Template, typer.Option("--template", "-t", help="What to start from.")] = "two_tasks",
) -> None:
    """Write a commented spec to start from. A file that exists is never touched.

    two_tasks: two tasks with a learned representative between them. mlp, conv: a network trained end to end.
    chain: four tasks with local losses.
    """
    if path.exists() or path.is_symlink():
        raise typer.BadParameter(f"{path} exists, and is left as it is", param_hint="PATH")
    check_target(path, "PATH")
    text = (files("r2d2c.cli") / "templates" / f"{template}.yaml").read_text("utf-8")
    text = text.replace("THIS_FILE", str(path)).replace("model: NAME", f"model: {model_name(path, template)}")
    write_file(path, text.encode(), "PATH")
    print(f"wrote {path}\nnext: r2d2c check {path}")


def model_name(path: Path, default: str) -> str:
    """A name for the model from the file's, if one can be made of it."""
    word = re.sub(r"\W+", "_", path.stem, flags=re.ASCII).strip("_").lower()
    return word if re.fullmatch(r"[a-z]\w*", word) else default
