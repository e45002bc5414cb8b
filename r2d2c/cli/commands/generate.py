"""`r2d2c generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r2d2c.cli.console import print_json
from r2d2c.cli.options import (
    CheckpointOption,
    DepthOption,
    DeviceOption,
    FormatOption,
    PluginOption,
    SizeOption,
    WidthOption,
    given_sizes,
)


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder or archive.", show_default=False)
    ],
    prompt: Annotated[
        str,
        typer.Option(
            "-p", "--prompt", metavar="TEXT", help="What to go on with; ids, as `0 3 0`, without characters."
        ),
    ],
    length: Annotated[int, typer.Option("-n", "--length", min=1, help="How many tokens to add.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 the likely is likelier; 0: always the likeliest.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Only from the K likeliest.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The output to draw from.", show_default="the one that fits"),
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    depth: DepthOption = None,
    width: WidthOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Let a trained model go on with a text, or another sequence of tokens.

    The model predicts the next token, as one that is trained on `text:FILE`. The prompt and what follows it are
    printed as they are made.
    """
    sizes = given_sizes(size, depth, width)
    from r2d2c.train.generate import Sampling, open_reader, stream

    reader = open_reader(
        run, output, checkpoint=checkpoint, device=device, plugins=plugins or (), sizes=sizes
    )
    sampling = Sampling(temperature, top_k, seed)
    tokens = stream(reader, prompt, length, sampling)
    if format_ == "json":
        made = list(tokens)
        shown = reader.vocabulary.text(made) if reader.vocabulary.classes is not None else None
        settings = {"temperature": temperature, "top_k": top_k, "seed": seed}
        print_json({"prompt": prompt, "text": shown, "tokens": made, **settings})
        return
    print(prompt, end="" if reader.vocabulary.classes is not None else " ", flush=True)
    for piece in reader.vocabulary.pieces(tokens):
        print(piece, end="", flush=True)
    print()
