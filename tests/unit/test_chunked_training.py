"""`train.chunk`: sequences learned in parts equal a loop written by hand, and resume is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import r2d2c
from r2d2c import CompileError
from r2d2c.diagnostics import Sink
from r2d2c.model import Model
from r2d2c.sampling import random_batch
from r2d2c.train.chunks import Chunks, Means
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.settings import read_settings

SPEC = """\
r2d2c: 1
model: parts
dims: {D: 3, S: 4, C: 3}
inputs:
  x: f32[B, T, D]
  about: f32[B, D]
targets:
  y: i64[B, T]
loops:
  read(data, about):
    over: T
    each: {xt: data}
    stateful: true
    carry: {h: "f32[B, S] = learned"}
    body: |
      h = tanh(linear(xt + about, S) + linear(h, S))
      o = linear(h, C)
tasks:
  t:
    behavior: |
      r = read(x, about)
      out = r.o.steps
    distance: cross_entropy(out, y)
outputs:
  logits: t.out
train:
  epochs: 2
  batch_size: 5
  optimizer: sgd(lr=0.5)
  metrics:
    - accuracy(logits, y)
"""


def batches(steps: tuple[int, ...] = (8, 8, 6, 2)) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "x": torch.randn(5, length, 3, generator=generator),
            "about": torch.randn(5, 3, generator=generator),
            "y": torch.randint(0, 3, (5, length), generator=generator),
        }
        for length in steps
    ]


def spec(tmp_path: Path, text: str = SPEC) -> Path:
    path = tmp_path / "parts.yaml"
    path.write_text(text, "utf-8")
    return path


def weights(run: r2d2c.Run) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in run.load("last").named_parameters()}


def test_parts_are_learned_as_by_hand(tmp_path: Path) -> None:
    """An update after every part, the state carried on, each batch new; the losses by their steps."""
    run = r2d2c.train(spec(tmp_path), data=batches(), out=tmp_path / "run", chunk=3)
    model = Model(r2d2c.load(tmp_path / "parts.yaml"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    means: list[float] = []
    for _ in range(2):
        losses = []
        for batch in batches():
            length, state, total = batch["x"].shape[1], None, 0.0
            for first in range(0, length, 3):
                part = {k: v if k == "about" else v[:, first : first + 3] for k, v in batch.items()}
                step = model.learn(**part, **({} if state is None else {"state": state}))
                optimizer.step()
                optimizer.zero_grad()
                state = step.state
                total += float(step.losses["t"]) * part["x"].shape[1] / length
            losses.append(total)
        means.append(sum(losses) / len(losses))
    found = weights(run)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-5, atol=1e-7)
    shown = [r["losses"]["t"] for r in run.metrics if r["split"] == "train" and "lr" in r]
    assert shown == pytest.approx(means, rel=1e-5)


def test_a_part_as_long_as_the_sequences_changes_nothing(tmp_path: Path) -> None:
    path = spec(tmp_path)
    whole = r2d2c.train(path, data=batches(), out=tmp_path / "whole")
    for chunk in (8, 100):
        run = r2d2c.train(path, data=batches(), out=tmp_path / f"run{chunk}", chunk=chunk)
        assert all(
            torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(run).values(), strict=True)
        )
    cut = r2d2c.train(path, data=batches(), out=tmp_path / "cut", chunk=2)
    assert not torch.equal(weights(whole)["read.h.linear.weight"], weights(cut)["read.h.linear.weight"])


class StopAt:
    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_step(self, info: Any) -> None:
        if (info.epoch, info.batch) == self.at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("more", [[], ["train.schedule=cosine"]])
def test_resume_between_batches_is_exact(tmp_path: Path, more: list[str]) -> None:
    options: dict[str, Any] = {
        "data": batches((8, 8, 8, 8)),
        "chunk": 3,
        "settings": ["train.optimizer=adam", *more],
    }
    path = spec(tmp_path)
    whole = r2d2c.train(path, out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        r2d2c.train(path, out=tmp_path / "run", callbacks=[StopAt(1, 2)], **options)
    run = r2d2c.train(resume=tmp_path / "run", data=options["data"])
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(run).values(), strict=True))
    assert [r["losses"] for r in whole.metrics] == [r["losses"] for r in run.metrics]


def test_a_schedule_counts_batches_when_it_is_begun_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": batches((8, 8, 8, 8)), "chunk": 3, "schedule": "cosine"}
    path = spec(tmp_path)
    whole = r2d2c.train(path, out=tmp_path / "whole", epochs=4, **options)
    run = r2d2c.train(path, out=tmp_path / "run", epochs=2, **options)
    r2d2c.train(resume=run.folder, epochs=4, data=options["data"])
    rates = [[r["lr"] for r in a.metrics if "lr" in r] for a in (whole, run)]
    assert rates[1][-2:] == pytest.approx(rates[0][-2:], abs=1e-9)


def test_evaluate_and_predict_start_every_batch_anew(tmp_path: Path) -> None:
    run = r2d2c.train(spec(tmp_path), data=batches(), out=tmp_path / "run", chunk=3)
    model, data = run.load("last"), batches((7,))[0]
    expected = model.losses(**data)["t"]
    found = r2d2c.evaluate(run, data={"train": [data, data]}, split="train")
    assert found["losses"]["t"] == pytest.approx(float(expected), rel=1e-6)
    given = {"x": data["x"], "about": data["about"]}
    predicted = r2d2c.predict(run, data={"train": [given, given]})
    with torch.no_grad():
        logits = model(**given)["logits"]
    assert predicted.outputs.keys() == {"logits"}
    for number in range(2):
        torch.testing.assert_close(torch.tensor(predicted["logits"][5 * number : 5 * number + 5]), logits)


def test_what_a_pass_stores_does_not_grow_with_the_sequence() -> None:
    checked = r2d2c.loads(SPEC)
    chunks = Chunks(4, "T", {"x": 1, "y": 1})
    model = Model(checked)

    def most(steps: int) -> int:
        batch = {
            k: v
            for k, v in random_batch(checked.graph, sizes={"B": 2, "T": steps}).items()
            if k in ("x", "about", "y")
        }
        state: dict[str, Any] = {}
        largest = 0
        for part, _ in chunks.parts(batch):
            stored: list[int] = []

            def pack(value: Tensor, stored: list[int] = stored) -> Tensor:
                stored.append(value.numel())
                return value

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                state = {"state": model.learn(**part, **state).state}
            largest = max(largest, sum(stored))
        return largest

    assert most(8) == most(80) > 0


def test_parts_and_means() -> None:
    chunks = Chunks(3, "T", {"x": 1, "y": 0})
    batch = {"x": torch.arange(14).reshape(2, 7), "y": torch.arange(7), "z": torch.zeros(2)}
    parts = list(chunks.parts(batch))
    assert [p.batch["y"].tolist() for p in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(torch.cat([p.batch["x"] for p in parts], 1), batch["x"])
    assert [p.share for p in parts] == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    assert all(p.batch["z"] is batch["z"] for p in parts)
    assert [p.share for p in chunks.parts({**batch, "y": torch.arange(4)})] == [1.0]  # the model refuses it
    means = Means()
    means.add({"a": torch.tensor(1.0), "rare": torch.tensor(5.0)}, 0.75)
    means.add({"a": torch.tensor(3.0)}, 0.25)
    assert {k: float(v) for k, v in means.means().items()} == {"a": 1.5, "rare": 5.0}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    stateful: true\n", "", "no loop over a sequence keeps its state"),
        (
            "  y: i64[B, T]",
            "  y: i64[B, T]\n  z: i64[B]",
            "the target `z` is i64[B]: it says nothing about a part",
        ),
        ("D: 3,", "D: 3, L: 8,", "`read` takes L=8 steps, and the model takes no fewer"),
        ("D: 3,", "D: 3, L: 4..8,", "L is 4..8, and a part has 1 to 3 steps"),
        ("D: 3,", "D: 3, L: 1..2,", "L is 1..2, and a part has 1 to 3 steps"),
        (
            "about: f32[B, D]",
            "about: f32[B, T + 1, D]",
            "`about` is f32[B, T + 1, D=3], which cannot be cut into parts of T",
        ),
        (
            "tasks:",
            """\
  plain(data):
    over: T
    each: {xt: data}
    carry: {h: "f32[B, C] = zeros"}
    body: h = tanh(linear(xt, C) + h)
tasks:""",
            "the loop `plain` runs over T too, and would start anew in every part",
        ),
    ],
)
def test_sequences_that_cannot_be_cut(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SPEC.replace(old, new)
    if "z: i64" in new:
        text = text.replace(
            "cross_entropy(out, y)", "cross_entropy(out, y) + cross_entropy(mean(out, axes=1), z)"
        )
    if "L: " in new:
        text = text.replace("over: T", "over: L").replace("[B, T", "[B, L")
    if "plain" in new:
        text = text.replace("out = r.o.steps", "p = plain(x)\n      out = r.o.steps + p.h.steps")
    if "T + 1" in new:
        text = text.replace("read(x, about)", "read(x, mean(about, axes=1))")
    checked = r2d2c.loads(text, settings=["train.chunk=3"])
    sink = Sink()
    assert read_settings(checked, sink) is None
    (found,) = [d for d in sink.diagnostics if d.severity == "error"]
    assert found.code == "E556" and message in found.message
    with pytest.raises(CompileError, match="E556"):
        r2d2c.train(spec(tmp_path, text), data=batches(), out=tmp_path / "run", chunk=3)


def test_a_resumed_run_keeps_its_chunk(tmp_path: Path) -> None:
    run = r2d2c.train(spec(tmp_path), data=batches(), out=tmp_path / "run", chunk=3, epochs=1)
    assert "chunk: 3" in (run.folder / "spec.yaml").read_text("utf-8")
    with pytest.raises(CompileError, match="E548"):
        r2d2c.train(resume=run.folder, chunk=5, data=batches())
