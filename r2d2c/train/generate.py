"""`generate`: a trained model of sequences goes on with a prompt, one token after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from r2d2c.diagnostics import Sink, suggest
from r2d2c.graph import Graph
from r2d2c.sizes import Given, check_sizes
from r2d2c.train.data.vocabulary import Prompt, Vocabulary, shown
from r2d2c.train.device import find_device
from r2d2c.train.refuse import refuse
from r2d2c.train.run import Run, Which, open_run
from r2d2c.types import INTEGERS, TensorType

if TYPE_CHECKING:
    from r2d2c.model import Model

WINDOW = 256  # where nothing tells how long the sequences of training were


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn from the model's numbers.

    temperature: they are divided by it; 0 takes the likeliest token. top_k: only the likeliest ``k`` are drawn from.
    """

    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def check(self) -> None:
        """E538 for values that nothing can be drawn with."""
        if not 0 <= self.temperature < float("inf"):
            refuse("E538", f"a temperature is at least 0 and finite, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            refuse("E538", f"`top_k` is at least 1, not {self.top_k}")

    def draw(self, scores: torch.Tensor, generator: torch.Generator) -> int:
        """One of the tokens of ``scores`` f64[V], their logarithmic probabilities up to a constant."""
        if self.temperature == 0:
            return int(scores.argmax())
        if self.top_k is not None and self.top_k < len(scores):
            best, ids = scores.topk(self.top_k)
        else:
            best, ids = scores, torch.arange(len(scores))
        shares = torch.softmax((best - best.max()) / self.temperature, 0)
        return int(ids[torch.multinomial(shares, 1, generator=generator)])


@dataclass(frozen=True, slots=True)
class Reader:
    """A model that reads tokens and says at every step what comes next.

    vocabulary: what its ``V`` ids are, and ``limit``: how many it may read. state: it keeps what it has read, and reads
    on from there. Otherwise it reads the last ``window`` tokens again for each new one, at least ``least`` of them: a
    shorter sequence is filled up behind its end. sizes: the model's arguments.
    """

    model: Model
    port: str
    output: str
    size: int
    limit: int
    vocabulary: Vocabulary
    state: bool
    window: int
    least: int
    device: torch.device
    sizes: Mapping[str, Any]

    def tokens(self, prompt: Sequence[int], length: int, sampling: Sampling) -> Iterator[int]:
        """``length`` tokens after the prompt."""
        generator = torch.Generator().manual_seed(sampling.seed)
        known, unread, state = list(prompt), list(prompt), None
        if not self.state:
            self._check_causal(known)
        for _ in range(length):
            if self.state:
                for first in range(0, len(unread), self.window):
                    row, state = self._read_on(unread[first : first + self.window], state)
            else:
                row = self._read(known[-self.window :])
            token = sampling.draw(self._scores(row), generator)
            unread = [token]
            known.append(token)
            yield token

    def _read(self, tokens: list[int], filler: int = 0) -> torch.Tensor:
        """What the model says of the token after these, [V]."""
        padded = [*tokens, *[filler] * (self.least - len(tokens))]
        row: torch.Tensor = self._run(padded, {})[self.output][0, len(tokens) - 1]
        return row

    def _read_on(self, tokens: list[int], state: Any) -> tuple[torch.Tensor, Any]:
        """The same, where a state knows all that was before."""
        found = self._run(tokens, {} if state is None else {"state": state})
        return found[self.output][0, -1], found["state"]

    def _run(self, tokens: list[int], state: Mapping[str, Any]) -> dict[str, Any]:
        x = torch.tensor([tokens], dtype=torch.int64, device=self.device)
        with torch.no_grad():
            found: dict[str, Any] = self.model(**{self.port: x}, **state, **self.sizes)
        return found

    def _check_causal(self, prompt: list[int]) -> None:
        """E537 if what fills up a short sequence changes what is said before it."""
        tokens = prompt[: self.least - 1]
        if not tokens or self.limit < 2:
            return
        rows = [self._read(tokens, filler) for filler in (0, self.limit - 1)]
        if not torch.allclose(rows[0], rows[1], rtol=1e-3, atol=1e-4):
            _cannot(
                f"`{self.output}` at a step changes with the tokens after it, and there are none yet",
                fix="let steps see only what is before them, as with `mask=causal_mask(T)` in attention",
            )

    def _scores(self, row: torch.Tensor) -> torch.Tensor:
        """f64[V]: logarithmic probabilities up to a constant, of logits or of probabilities."""
        scores = row.detach().cpu().double()
        if not torch.isfinite(scores).all():
            _cannot(f"`{self.output}` is NaN or infinite")
        if (scores >= 0).all() and abs(float(scores.sum()) - 1) < 1e-3:
            scores = scores.clamp_min(1e-30).log()
        if self.vocabulary.unknown is not None:
            scores[self.vocabulary.unknown] = -torch.inf
        return scores


def generate(
    what: Run | Model | str | Path,
    prompt: Prompt,
    *,
    length: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    output: str | None = None,
    checkpoint: Which | None = None,
    device: str | None = None,
    plugins: Iterable[Any] = (),
    sizes: Mapping[str, Any] | None = None,
) -> str | list[int]:
    """What a run (or its folder, or a model) says after a prompt: ``length`` tokens of it, without the prompt.

    A text for a model of characters or bytes; for others, and for a `Model`, which knows no characters, ids. See
    `Sampling` for temperature, top_k and seed. output: the model's output to draw from, if there are several.
    """
    reader = open_reader(what, output, checkpoint=checkpoint, device=device, plugins=plugins, sizes=sizes)
    ids = list(stream(reader, prompt, length, Sampling(temperature, top_k, seed)))
    return reader.vocabulary.text(ids) if reader.vocabulary.classes is not None else ids


def stream(reader: Reader, prompt: Prompt, length: int, sampling: Sampling) -> Iterator[int]:
    """The tokens after a prompt, each as soon as it is there; what is wrong is said at once."""
    sampling.check()
    if length < 1:
        refuse("E538", f"`length` is at least 1, not {length}")
    return reader.tokens(reader.vocabulary.encode(prompt, reader.limit), length, sampling)


def open_reader(
    what: Run | Model | str | Path,
    output: str | None = None,
    *,
    checkpoint: Which | None = None,
    device: str | None = None,
    plugins: Iterable[Any] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Reader:
    """A run or a model, ready to be read with; E537 if it is not one that predicts tokens from tokens."""
    if isinstance(what, str | Path):
        what = open_run(what, plugins=plugins)
    graph = what.spec.graph
    name, dims = _input(graph)
    output, size = _output(graph, output, dims[1])
    sink = Sink()
    numbers = check_sizes(graph, {key: Given(str(value)) for key, value in (sizes or {}).items()}, sink)
    sink.stop_on_errors()
    bound = next(graph.bounds.get(port.value) for port in graph.body.inputs if port.name == name)
    limit = int(bound) if isinstance(bound, int) else size
    if limit < size:
        _cannot(f"`{output}` has {size} tokens, the input `{name}` takes only {limit}")
    classes, trained = None, WINDOW
    if isinstance(what, Run):
        classes = what.origin.classes
        shape = what.origin.shapes.get(name) or [WINDOW]
        trained = int(shape[0])
        model = what.load(checkpoint)
    else:
        model = what
    least, most = _steps(graph, dims[1], trained)
    state = bool(graph.states) and least == 1
    if device is not None or isinstance(what, Run):
        model = model.to(find_device(device))
    place = next((t.device for t in (*model.parameters(), *model.buffers())), find_device(None))
    known = Vocabulary.of(classes, size)
    return Reader(model, name, output, size, limit, known, state, most, least, place, numbers)


def _input(graph: Graph) -> tuple[str, tuple[Any, ...]]:
    """The port of tokens, and its dims."""
    ports = [p for p in graph.body.inputs if p.name not in graph.targets and p.name not in graph.hidden]
    types = {port.name: graph.types[port.value] for port in ports}
    if len(types) == 1:
        name, type_ = next(iter(types.items()))
        if type_.dtype in INTEGERS and type_.rank == 2:
            return name, type_.dims
    _cannot(f"its inputs are {_typed(types)}, and one input of tokens i64[B, T] is needed")


def _output(graph: Graph, wanted: str | None, steps: Any) -> tuple[str, int]:
    """The output to draw from, and how many tokens it has."""
    types = {p.name: graph.types[p.value] for p in graph.body.outputs if p.name not in graph.hidden}
    sizes = {
        name: int(type_.dims[2])
        for name, type_ in types.items()
        if type_.rank == 3 and type_.floating and type_.dims[1] == steps and isinstance(type_.dims[2], int)
    }
    if wanted is not None and wanted not in types:
        near = suggest(wanted, types)
        _cannot(f"it has no output `{wanted}`", fix=near.text if near else None)
    if wanted is not None and wanted not in sizes:
        _cannot(f"its output `{wanted}` is {types[wanted]}, and f32[B, T, V] is needed")
    if not sizes:
        _cannot(
            f"its outputs are {_typed(types)}, and one with a number for every next token, f32[B, T, V], is needed"
        )
    name = wanted or (next(iter(sizes)) if len(sizes) == 1 else "logits")
    if name not in sizes:
        _cannot(
            f"{shown(sizes)} may all be what is drawn from", fix=f"say which: --output {next(iter(sizes))}"
        )
    return name, sizes[name]


def _steps(graph: Graph, dim: Any, trained: int) -> tuple[int, int]:
    """The fewest and the most tokens that the model can read at once."""
    if isinstance(dim, int):
        return int(dim), int(dim)
    low, high = graph.ranges.get(str(dim), (1, trained))
    return low, max(low, min(high, trained))


def _cannot(why: str, fix: str | None = None) -> NoReturn:
    refuse("E537", f"the model cannot generate: {why}", fix=fix)


def _typed(types: Mapping[str, TensorType]) -> str:
    return ", ".join(f"`{name}` {type_}" for name, type_ in types.items()) or "none"
