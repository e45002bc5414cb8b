"""What `bench.memory_study` trains and measures: the variants of ready specs, and how well they remember."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch

import r2d2c
from r2d2c.model import Model
from r2d2c.train.data.dataset import Column, Dataset, Table
from r2d2c.train.data.sources import open_data

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "specs" / "memory"
# Test samples that are measured at once, and in all.
BATCH, MOST = 500, 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: a ready spec with some of its text replaced and with settings.

    seeds: how many trainings. data: what it is trained on, if not what the spec says.
    """

    name: str
    spec: str
    changes: tuple[tuple[str, str], ...] = ()
    settings: tuple[str, ...] = ()
    seeds: int = 1
    data: Any = None

    def text(self) -> str:
        """The spec as it is trained."""
        return changed((FOLDER / self.spec).read_text("utf-8"), self.changes)


def changed(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """The text with every change made, each of which must fit at exactly one place."""
    for before, after in changes:
        if text.count(before) != 1:
            raise ValueError(f"{before!r} is there {text.count(before)} times, and should be once")
        text = text.replace(before, after)
    return text


def train(row: Row, seed: int, settings: Sequence[str] = (), data: Any = None) -> tuple[Model, float]:
    """A trained model, in evaluation, and the processor seconds that it took."""
    checked = r2d2c.loads(
        row.text(), name=row.spec, folder=FOLDER, settings=(*row.settings, *settings), seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = r2d2c.train(
            checked, data=row.data if data is None else data, out=Path(folder) / "run", seed=seed, threads=1
        )
        return run.model.eval(), time.process_time() - start


def table(source: str) -> dict[str, numpy.ndarray[Any, Any]]:
    """The test samples of a data source."""
    test = open_data(source).test
    assert test is not None
    return {name: test[name][:MOST] for name in ("x", "y", "at", "first", "second", "gap") if name in test}


def outputs(model: Model, x: numpy.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    """What the model says of samples, without their state."""
    found: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for first in range(0, len(x), BATCH):
            batch = torch.from_numpy(x[first : first + BATCH].astype("int64"))
            for name, value in model(x=batch).items():
                if name != "state":
                    found.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}


def accuracy(model: Model, samples: dict[str, numpy.ndarray[Any, Any]]) -> float:
    """The share of test samples whose symbol is told right."""
    said = outputs(model, samples["x"])["logits"].argmax(1)
    return float((said == torch.from_numpy(samples["y"])).double().mean())


# -- two symbols among zeros

FILLED = "slots = flatten(by_age(m.rep, m.age))"
AGES = "ages = flatten(bits(by_age(m.age, m.age), 5))"
UNSORTED = (FILLED, "slots = flatten(m.rep)")
NO_AGES = (AGES, f"ages = 0 * {AGES.removeprefix('ages = ')}")
NO_CHAIN = ("last = stop(m.newest.rep)", "last = stop(0 * m.newest.rep)")
WHEN = "    when: surprise > replaced.surprise\n"
ALWAYS = (WHEN, "")
FIFO = (WHEN, "    replace: oldest\n")
SYMBOLS = "two_symbols.yaml"


def slots(count: int) -> tuple[str, ...]:
    return (f"dims.K={count}",)


SYMBOL_ROWS = (
    Row("2 slots, ages, chain", SYMBOLS, seeds=3),
    Row("1 slot", SYMBOLS, settings=slots(1)),
    Row("8 slots", SYMBOLS, settings=slots(8)),
    Row("2 slots, sorted, without ages", SYMBOLS, (NO_AGES,)),
    Row("2 slots, neither sorted nor with ages", SYMBOLS, (UNSORTED, NO_AGES)),
    Row("2 slots, without the chain", SYMBOLS, (NO_CHAIN,)),
    Row("2 slots, neither sorted, ages nor chain", SYMBOLS, (UNSORTED, NO_AGES, NO_CHAIN)),
    Row("2 slots, written at every step", SYMBOLS, (ALWAYS,)),
    Row("2 slots, FIFO", SYMBOLS, (FIFO,)),
    Row("8 slots, FIFO", SYMBOLS, (FIFO,), slots(8)),
    Row("8 slots, FIFO, without the chain", SYMBOLS, (FIFO, NO_CHAIN), slots(8)),
)
LENGTHS = (12, 24)


def symbols(row: Row, seed: int) -> dict[str, Any]:
    """By length: the shares of test samples with all three right, and with each."""
    found: dict[str, Any] = {"seconds": 0.0}
    for length in LENGTHS:
        source = f"two_symbols?length={length}&gaps={length - 2}&samples=24000"
        model, seconds = train(row, seed, (f"dims.G={length - 2}",), source)
        samples = table(source)
        said = outputs(model, samples["x"])
        right = {
            target: said[output].argmax(1) == torch.from_numpy(samples[target])
            for output, target in (("one", "first"), ("two", "second"), ("apart", "gap"))
        }
        right["all"] = right["first"] & right["second"] & right["gap"]
        found[str(length)] = {name: float(value.double().mean()) for name, value in right.items()}
        found["seconds"] += seconds
    return found


# -- one symbol, and then filler

DELAYS = (100, 300, 1_000)
LSTM_MEMORY = """\
memories:
  m:
    slots: K
    fields: {state: "f32[S]", token: i64, surprise: f32}
    each_slot: rep = tanh(linear(state, S) + embedding(token, V, S))
"""
LSTM_LOOP = """\
      last: f32[B, S] = zeros
      guess: f32[B, V] = zeros
    body: |
      m = write(m, state=last, token=token, surprise=missed(guess, token))
      last = stop(m.newest.rep)
      most = top_slots(m.rep, m.surprise, 2)
      says = linear(flatten(by_age(m.rep, m.age)), V)
      guess = stop(softmax(says))
"""
LSTM_BODY = """\
      h: {value: "f32[B, S] = zeros", credit: CREDIT}
      c: {value: "f32[B, S] = zeros", credit: CREDIT}
    body: |
      h, c = lstm(h, c, embedding(token, V, S), S)
      says = linear(h, V)
"""


def lstm(credit: str) -> tuple[tuple[str, str], ...]:
    """A long short-term memory in the place of the memory of remember.yaml."""
    return (
        ("dims: {", "imports: [std/recurrent]\ndims: {"),
        (LSTM_MEMORY, ""),
        (LSTM_LOOP, LSTM_BODY.replace("CREDIT", credit)),
        ("flatten(r.most)", "r.h"),
    )


REMEMBER = "remember.yaml"
ALL_SLOTS = ("most = top_slots(m.rep, m.surprise, 2)", "most = by_age(m.rep, m.age)")
NEAR = 20
MEMORY, SHORT = "memory, 8 slots", f"LSTM, over all steps, trained with a delay of {NEAR}"
DELAY_ROWS = (
    Row(MEMORY, REMEMBER, seeds=3),
    Row("FIFO, 8 slots", REMEMBER, (ALL_SLOTS,), ("memories.m.replace=oldest",)),
    Row("LSTM, backpropagation over 50 steps", REMEMBER, lstm("truncate(50)")),
    Row("LSTM, backpropagation over all steps", REMEMBER, lstm("backprop")),
    Row(SHORT, REMEMBER, lstm("backprop"), data=f"delayed_copy?delay={NEAR}&samples=8000"),
)
DECAYS = (0.9, 0.95, 0.98, 0.99)


def delay(row: Row, seed: int) -> dict[str, Any]:
    """By delay: how often the symbol is told right. Of the memory also how long it stays under a decay."""
    model, seconds = train(row, seed)
    found: dict[str, Any] = {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}
    for steps in (*DELAYS, *([NEAR] if row.name == SHORT else [])):
        found[str(steps)] = accuracy(model, table(f"delayed_copy?delay={steps}&samples=8000"))
    if row.name == MEMORY:
        found["decay"] = {str(rate): retention(row, model, rate) for rate in DECAYS}
    return found


def retention(row: Row, trained: Model, rate: float, most: int = 1_200, count: int = 64) -> dict[str, float]:
    """How long the symbol stays in a slot when the surprise in its slot counts less at every step.

    Means over samples, in steps: measured, and ln(S_symbol / S_filler) / −ln rate of the surprises that were stored.
    """
    setting = f"memories.m.replace=argmin(surprise * {rate} ^ age)"
    checked = r2d2c.loads(row.text(), name=row.spec, folder=FOLDER, settings=(setting,))
    model = r2d2c.compile(checked).eval()
    model.load_state_dict(trained.state_dict())
    x = torch.from_numpy(table(f"delayed_copy?delay={most}&samples={4 * count}")["x"][:count].astype("int64"))
    stays = torch.zeros(count)
    there = torch.ones(count, dtype=torch.bool)
    symbol = torch.zeros(count)
    filler, steps = torch.zeros(count), torch.zeros(count)
    with torch.no_grad():
        state = model(x=x[:, :1])["state"]
        for t in range(1, most):
            state = model(x=x[:, t : t + 1], state=state)["state"]
            token, surprise = state["read.m.token"], state["read.m.surprise"]
            holds = token != 0
            there &= holds.any(1)
            stays += there
            if t == 1:
                symbol = (surprise * holds).sum(1)
            else:  # what was written at this step is filler
                newest = surprise.gather(1, state["read.m.age"].argmin(1, keepdim=True))[:, 0]
                filler, steps = filler + there * newest, steps + there
            if not there.any():
                break
    # The last step of a stay is when the symbol's slot is replaced.
    expected = (symbol / (filler / steps)).log() / -torch.tensor(rate).log()
    return {
        "measured": float(stays.mean()),
        "expected": float(expected.mean()),
        "symbol": float(symbol.mean()),
        "filler": float((filler / steps).mean()),
    }


# -- one symbol among noise that cannot be predicted

NOISE = "noise=0.3&kinds=64&samples=8000"
STRETCH = "delayed_copy?delay=82&lead=20&noise=0.6&kinds=64&samples=8000"
START, ANYWHERE, LATER = "at the start", "anywhere", "before a stretch"
PLACES = {
    START: f"delayed_copy?delay=100&{NOISE}",
    ANYWHERE: f"delayed_copy?delay=10&lead=90&{NOISE}",
    LATER: STRETCH,
}
FAR = f"delayed_copy?delay=300&{NOISE}"
# The first token of noise: after filler, 8 symbols and the question.
FIRST_NOISE = 10


def with_stretch(table: Table) -> Table:
    """Noise in 50 steps after step 21 only, which begin anywhere."""
    x = table["x"].astype("int64")
    begin = numpy.random.default_rng(0).integers(21, x.shape[1] - 51, len(x))[:, None]
    steps = numpy.arange(x.shape[1])
    x[(x >= FIRST_NOISE) & ((steps < begin) | (steps >= begin + 50))] = 0
    return Table({"x": Column(x), "y": Column(table["y"])})


def noisy(place: str) -> Dataset:
    data = open_data(PLACES[place])
    assert data.test is not None
    if place != LATER:
        return data
    return Dataset("stretch", with_stretch(data.train), test=with_stretch(data.test))


WRITE = "      m = write(m, state=last, token=token, surprise=missed(guess, token))\n"
USUAL = (
    (
        "      guess: f32[B, V] = zeros\n",
        '      guess: f32[B, V] = zeros\n      usual: {value: "f32[B] = zeros", credit: local}\n',
    ),
    (
        WRITE,
        "      surprise = missed(guess, token)\n"
        "      m = write(m, state=last, token=token, surprise=surprise - usual)\n"
        "      usual = 0.9 * usual + 0.1 * surprise\n",
    ),
)
TOKENS = ("dims.V=74",)
SURPRISE = "surprise"
NOISE_ROWS = (
    Row(SURPRISE, REMEMBER, settings=TOKENS),
    Row("surprise above the usual", REMEMBER, USUAL, TOKENS),
    Row("importance", "importance.yaml", seeds=3),
)


def surprises(model: Model, x: torch.Tensor) -> dict[str, float]:
    """Medians of the surprises that the symbol and the tokens of noise are written with; ``x`` i64[N, T]."""
    written: list[torch.Tensor] = []
    state: Any = None
    with torch.no_grad():
        for t in range(x.shape[1]):
            given: dict[str, Any] = {} if state is None else {"state": state}
            state = model(x=x[:, t : t + 1], **given)["state"]
            newest = state["read.m.age"].argmin(1, keepdim=True)
            written.append(state["read.m.surprise"].gather(1, newest)[:, 0])
    of = torch.stack(written, 1)
    symbol = (x > 0) & (x < FIRST_NOISE - 1)
    return {"symbol": float(of[symbol].median()), "noise": float(of[x >= FIRST_NOISE].median())}


def noise(row: Row, seed: int) -> dict[str, Any]:
    """By where the symbol is, trained and measured there: how often it is told right.

    surprises: of the row that replaces by them. also: what was trained with the symbol anywhere, with the symbol at the start and a delay of 300.
    """
    found: dict[str, Any] = {"seconds": 0.0, "surprises": {}}
    for place in PLACES:
        data = noisy(place)
        assert data.test is not None
        model, seconds = train(row, seed, data=data)
        found[place] = accuracy(model, {name: data.test[name][:MOST] for name in ("x", "y")})
        found["seconds"] += seconds
        if row.name == SURPRISE:
            found["surprises"][place] = surprises(
                model, torch.from_numpy(data.test["x"][:128].astype("int64"))
            )
        if place == ANYWHERE:
            found["also"] = {"100": accuracy(model, table(PLACES[START])), "300": accuracy(model, table(FAR))}
    return found
