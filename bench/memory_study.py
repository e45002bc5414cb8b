"""Studies of memories: what slots that keep surprises remember, for how long, and what noise does to them.

    python -m bench.memory_study [symbols|delay|noise] [--only ROW …]

Trains ready specs of `specs/memory/` and variants of them on generated sequences, on one thread, and measures them on
test samples. Writes `bench/memory_study.json`, `bench/memory_study.md` and `bench/memory_study.svg`. Rows that the JSON has
already are not run again, unless `--only` names them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import memory_rows as rows

PAGE = """\
# What a memory of surprises remembers

Written by `python -m bench.memory_study`: ready specs of [specs/memory](../specs/memory) and variants of them, trained on
one thread, measured on 2,000 test samples. Numbers are % of the samples told right, means over the seeds; no gradient goes
back through time, but in the LSTM.

- Two slots with ages tell both symbols of 000xy000, their order and the exact gap, always. Without ages the gap is lost.
- A symbol among filler that can be predicted is there after 1,000 steps as after 100. A queue of slots has lost it.
- Noise that cannot be predicted evicts it, unless it is rarer than the noise. A worth of each token that is learned from
  what was of use keeps it in all three tests; surprise above a running mean does in two.

![what is told right, and how long a symbol is kept](memory_study.svg)

## Two symbols among zeros

[two_symbols.yaml](../specs/memory/two_symbols.yaml), 1,500 steps of training for each length. Target for two slots with
ages: all right in 98 % at length 12, and in 90 % at length 24. `chain`: a slot stores the state of the slot before it, as a
constant. `sorted`: the slots are read by age, the newest first. FIFO replaces the oldest slot, at every step.

<SYMBOLS>

The chain alone tells which symbols there were and in which order; so does sorting, or ages. The gap needs ages: guessing
gives 10.7 and 5.1 %, and without ages 70 points of it and more are lost. One slot keeps one symbol, and the chain a part of the
other. Of two slots that are written at every step one is always the present token's, so one symbol has to go. A queue
with the chain is a recurrent network that is not trained, with a read-out that is: good for 12 steps, not for 24. Eight
slots hold more than is needed, and at length 24 their read-out has not learned the gap after 1,500 steps.

## One symbol, then filler

[remember.yaml](../specs/memory/remember.yaml), trained with a delay of 100 (750 steps), and asked after longer ones. Chance is
12.5. FIFO reads all of its slots; of the LSTM, of the same width, gradients go back over 50 steps or over all 102.

<DELAY>

The symbol's slot is not touched, so the delay does not matter. Gradients over 50 steps cannot reach a symbol 100 steps
back; but 750 steps of training are too few for an LSTM here even with gradients over all steps, so that alone would say
little. With a delay of 20 it does learn, <SHORT> % right, and then forgets over longer ones.

With `replace: argmin(surprise * γ ^ age)` memories fade. The trained model, step by step: how long the symbol stays in a slot
(64 samples of each of the seeds), and how long it should by the surprises that were stored. Target: within 25 %.

<DECAY>

At γ = 0.9 the symbol stays 5 steps longer: what it is compared to is the oldest filler, which has faded for 6 steps as well.

## Noise

30 % of the filler is one of 64 tokens at random. The symbol is `at the start`, the question 100 steps later; or `anywhere` in
90 steps, the question 10 to 99 later; or `before a stretch` of 50 steps, with 60 % noise there and none elsewhere. Each is
trained and measured by itself, 750 steps; then what was trained with the symbol anywhere is measured with it at the start, and
with a delay of 300. Chance is 12.5.

<NOISE>

- **Surprise** is 1 − p(token), so it ranks by how rare a token is at its place, whether it matters or not. Where the place
  of the symbol is known, or nearly, noise surprises more, and evicts it. Where it may come anywhere it is rarer than any
  one token of noise, and mostly stays. Medians of what was stored, of the symbol and of noise:
  <SURPRISES>.
- **Surprise above the usual** subtracts a running mean of surprise (0.9 a step). It keeps what surprised in a quiet time,
  which the two other tests have, and loses what comes amid noise, because what came before the mean had risen counts for more.
- **Importance** ([importance.yaml](../specs/memory/importance.yaml)) learns a number for each token, which ranks what is kept
  and weighs what is read. Tokens that were kept for nothing lose weight until others take their slots, so it finds the symbols
  even if it never kept them at first. It needs the token to tell what matters, and a task that asks for it; what is important
  by its context, or was never of use in training, it cannot know.
"""
RESULTS, TABLE, FIGURE = (Path(__file__).parent / f"memory_study.{end}" for end in ("json", "md", "svg"))
PARTS: dict[str, tuple[tuple[rows.Row, ...], Callable[[rows.Row, int], dict[str, Any]]]] = {
    "symbols": (rows.SYMBOL_ROWS, rows.symbols),
    "delay": (rows.DELAY_ROWS, rows.delay),
    "noise": (rows.NOISE_ROWS, rows.noise),
}


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def run(part: str, only: list[str]) -> None:
    """Train the rows of a part that are missing, or those that are named."""
    known, measure = PARTS[part]
    for row in known:
        if only and row.name not in only:
            continue
        seeds = {} if only else dict(load().get(part, {}).get(row.name, {}))
        for seed in range(row.seeds):
            if str(seed) in seeds:
                continue
            seeds[str(seed)] = measure(row, seed)
            print(f"{part}: {row.name}, seed {seed}: {seeds[str(seed)]}", flush=True)
            found = load()  # another process may have run other rows meanwhile
            found[part] = {**found.get(part, {}), row.name: seeds}
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def _share(seeds: dict[str, Any], *path: str) -> str:
    """Mean over the seeds of a share, in %, and the least of several."""
    values = []
    for seed in seeds.values():
        for key in path:
            seed = seed[key]
        values.append(100 * seed)
    least = f" (≥ {min(values):.1f})" if len(values) > 1 and min(values) < statistics.mean(values) else ""
    return f"{statistics.mean(values):.1f}{least}"


def _rows(part: dict[str, Any], known: tuple[rows.Row, ...], paths: Sequence[tuple[str, ...]]) -> list[str]:
    return [
        f"| {row.name} | {len(part[row.name])} | "
        + " | ".join(_share(part[row.name], *path) for path in paths)
        + " |"
        for row in known
        if row.name in part
    ]


def symbols_table(part: dict[str, Any]) -> list[str]:
    head = [f"| | seeds | {' | '.join(f'{n}: all | first | second | gap' for n in rows.LENGTHS)} |"]
    paths = [(str(n), what) for n in rows.LENGTHS for what in ("all", "first", "second", "gap")]
    return [*head, f"| --- |{' ---: |' * (1 + len(paths))}", *_rows(part, rows.SYMBOL_ROWS, paths)]


def delay_table(part: dict[str, Any]) -> list[str]:
    head = [
        f"| | seeds | {' | '.join(f'delay {n:,}' for n in rows.DELAYS)} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    return [*head, *_rows(part, rows.DELAY_ROWS, [(str(n),) for n in rows.DELAYS])]


def decays(part: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By rate: means over the seeds."""
    seeds = [seed["decay"] for seed in part[rows.MEMORY].values()]
    return {
        rate: {what: statistics.mean(seed[rate][what] for seed in seeds) for what in seeds[0][rate]}
        for rate in seeds[0]
    }


def decay_table(part: dict[str, Any]) -> list[str]:
    lines = [
        "| γ | S_symbol | S_filler | steps kept | ln(S_symbol / S_filler) / −ln γ | ratio |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rate, one in decays(part).items():
        measured, expected = one["measured"], one["expected"]
        lines.append(
            f"| {rate} | {one['symbol']:.3f} | {one['filler']:.4f} | {measured:.0f} | {expected:.0f} "
            f"| {measured / expected:.2f} |"
        )
    return lines


def noise_table(part: dict[str, Any]) -> list[str]:
    places = list(rows.PLACES)
    also = [("also", "100"), ("also", "300")]
    head = [
        f"| replaced first is the least | seeds | {' | '.join(places)} | anywhere, then start | and delay 300 |",
        f"| --- |{' ---: |' * (3 + len(places))}",
    ]
    return [*head, *_rows(part, rows.NOISE_ROWS, [*((place,) for place in places), *also])]


def page(found: dict[str, Any]) -> str:
    """The Markdown of what has been run."""
    tables = {
        "SYMBOLS": (symbols_table, "symbols"),
        "DELAY": (delay_table, "delay"),
        "DECAY": (decay_table, "delay"),
        "NOISE": (noise_table, "noise"),
    }
    text = PAGE
    for mark, (make, part) in tables.items():
        try:
            lines = make(found[part])
        except KeyError:
            lines = ["(not run yet)"]
        text = text.replace(f"<{mark}>", "\n".join(lines))
    seeds = list(found.get("noise", {}).get(rows.SURPRISE, {}).values())
    stored = seeds[0]["surprises"] if seeds else {}
    told = [f"{place} {one['symbol']:.3f} and {one['noise']:.3f}" for place, one in stored.items()]
    text = text.replace("<SURPRISES>", ", ".join(told) or "…")
    short = found.get("delay", {}).get(rows.SHORT)
    return text.replace("<SHORT>", _share(short, str(rows.NEAR)) if short else "…")


def draw(found: dict[str, Any]) -> None:
    """The figure: what is told right of two symbols, and how long a symbol is kept."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    names = [row.name for row in reversed(rows.SYMBOL_ROWS) if row.name in found["symbols"]]
    for number, length in enumerate(rows.LENGTHS):
        means = [
            100 * statistics.mean(s[str(length)]["all"] for s in found["symbols"][name].values())
            for name in names
        ]
        places = [at + 0.2 - 0.4 * number for at in range(len(names))]
        left.barh(places, means, height=0.38, color=f"C{number}", label=f"length {length}")
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set(xlabel="x, y and the gap all right, %", xlim=(0, 100))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    points = decays(found["delay"])
    expected = [one["expected"] for one in points.values()]
    ends = [0.8 * min(expected), 1.9 * max(expected)]
    right.plot(ends, ends, color="0.6", linestyle=":", label="equal")
    right.plot(expected, [one["measured"] for one in points.values()], "o", color="C2", label="measured")
    for rate, one in points.items():
        right.annotate(
            f"γ = {rate}",
            (one["expected"], one["measured"]),
            xytext=(8, -4),
            textcoords="offset points",
            fontsize=8,
        )
    right.set(xscale="log", yscale="log", xlabel="ln(S_symbol / S_filler) / −ln γ", ylabel="steps kept")
    for axis in (right.xaxis, right.yaxis):
        axis.set_ticks([50, 100, 200, 400], ["50", "100", "200", "400"])
        axis.set_ticks([], minor=True)
    right.legend(frameon=False, fontsize=8)
    # No date, no version and ids by content: the same results give the same bytes.
    with rc_context({"svg.hashsalt": "r2d2c"}):
        figure.savefig(FIGURE, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Run the trainings that are missing, or those of some rows, and write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=list(PARTS))
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in [options.part] if options.part else PARTS:
        run(part, options.only)
    found = load()
    TABLE.write_text(page(found), "utf-8")
    if {"symbols", "delay"} <= found.keys() and rows.MEMORY in found["delay"]:
        draw(found)
    print(page(found))


if __name__ == "__main__":
    main()
