"""Op graphs that grow under the inductor backend: the table is data, and what is compiled does not know it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c.mutate import Add, Prune, mutate
from r2d2c.train.checkpoint import load_checkpoint
from tests.unit.runs import three_classes, write_table
from tests.unit.test_growth_loops import BODY, HEAD, TASK, TRAIN, batch, grower

FLAT = (
    HEAD.replace("grow: {", "normalise: batch\n    grow: {")
    + """\
tasks:
  classify:
    behavior: |
      columns = layer(x)
      h = relu(linear(columns, 16))
      logits = linear(concat(h, columns), C)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
"""
)
LOOP = HEAD + "loops:\n  think(data):\n    repeat: 2\n" + BODY + TASK
pytestmark = pytest.mark.slow


def test_rounds_of_a_training_are_those_of_eager(tmp_path: Path) -> None:
    write_table(tmp_path / "data.csv", "abcd", 64, three_classes)
    # Not adam: where a gradient is 0 but for rounding, it makes a step of the rounding.
    (tmp_path / "spec.yaml").write_text(FLAT + TRAIN.replace("adam(lr=0.01)", "sgd(lr=0.05)"))
    runs = {name: tmp_path / name for name in ("eager", "inductor")}
    for name, run in runs.items():
        r2d2c.train(tmp_path / "spec.yaml", out=run, backend=name)
    logs = [
        [line.partition('"worth"')[0] for line in (run / "mutations.jsonl").read_text().splitlines()]
        for run in runs.values()
    ]
    assert len(logs[0]) == 4 and logs[0] == logs[1]
    one, other = (load_checkpoint(run / "checkpoints" / "last.safetensors").model for run in runs.values())
    for part in ("kind", "args", "number", "born"):
        assert torch.equal(one[f"layer.{part}"], other[f"layer.{part}"])
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("text", [FLAT, LOOP], ids=["flat", "loop"])
def test_learning_between_mutations_is_that_of_eager(text: str, tmp_path: Path) -> None:
    spec = r2d2c.loads(text)
    models = [r2d2c.compile(spec, backend=name) for name in ("eager", "inductor")]
    found: list[list[torch.Tensor]] = []
    for model in models:
        steps: list[torch.Tensor] = []
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        growth = grower(model, tmp_path)
        for step in range(4):
            if step:
                table = growth.topology("layer")
                leaf = next(name for name, row in table.rows.items() if not (table.args == 4 + row).any())
                new = [
                    Add(f"n{table.next}", "mul", ("o1", 1.5)),
                    Add(f"n{table.next + 1}", "sin", (f"n{table.next}",)),
                ]
                growth.apply("layer", mutate(table, [Prune(leaf), *new]))
            optimizer.zero_grad()
            learned = model.learn(**batch())
            optimizer.step()
            steps += [learned.losses["classify"].detach(), model(x=batch()["x"])["logits"].detach()]
        found.append(steps)
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)
