"""What uses a run computes in the precision that the run was measured in: the same numbers, wherever they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import r2d2c

SPECS = Path(__file__).parents[2] / "specs"
BF16 = ["train.precision=bf16", "train.split=0.2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> r2d2c.Run:
    out = tmp_path_factory.mktemp("precision") / "run"
    spec = SPECS / "baselines" / "mlp.yaml"
    return r2d2c.train(spec, data="digits", out=out, epochs=1, settings=BF16, threads=1)


@pytest.mark.parametrize(("split", "checkpoint"), [("test", None), ("validation", "last")])
def test_eval_gives_the_numbers_of_the_training(run: r2d2c.Run, split: str, checkpoint: None) -> None:
    recorded = [line for line in run.metrics if line["split"] == split][-1]
    found = r2d2c.evaluate(run, split=split, checkpoint=checkpoint)
    for key in ("loss", "losses", "metrics", "samples"):
        assert found[key] == recorded[key]


def test_what_is_predicted_has_the_metrics_that_were_measured(run: r2d2c.Run) -> None:
    predictions = r2d2c.predict(run)
    measured = r2d2c.evaluate(run)
    logits = torch.from_numpy(predictions.outputs["logits"])
    x, y = _test_data(run)
    assert logits.dtype == torch.float32 and len(logits) == measured["samples"]
    (accuracy,) = (value for name, value in measured["metrics"].items() if name.startswith("accuracy"))
    assert float((logits.argmax(-1) == y).double().mean()) == accuracy
    size = 128
    model = run.load(run.which).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        wanted = torch.cat([model(x=part)["logits"].float() for part in x.split(size)])
    assert torch.equal(logits, wanted)
    with torch.no_grad():
        plain = model(x=x)["logits"]
    # In f32 they are other numbers, a little.
    assert 0 < float((plain - logits).abs().max()) < 0.05 * float(plain.abs().max())


def _test_data(run: r2d2c.Run) -> tuple[torch.Tensor, torch.Tensor]:
    from r2d2c.train.using import load_of, settings_of

    split = load_of(run, run.spec, None, settings_of(run.spec)).bound.splits["test"]
    batches = list(split.loader(128).epoch(0))
    return torch.cat([batch["x"] for batch in batches]), torch.cat([batch["y"] for batch in batches])


@pytest.mark.parametrize("settings", [BF16, ["train.split=0.2"]])
def test_a_state_is_kept_as_it_is_declared(tmp_path: Path, settings: list[str]) -> None:
    """What a loop leaves is f32 between the parts of a sequence, in whatever precision it was computed."""
    text = tmp_path / "text.txt"
    text.write_text((SPECS / "memory" / "genesis.txt").read_text()[:6000])
    run = r2d2c.train(
        SPECS / "memory" / "fifo.yaml",
        data=f"text:{text}?length=64",
        out=tmp_path / "run",
        epochs=1,
        chunk=16,
        settings=settings,
        threads=1,
    )
    (recorded,) = (line for line in run.metrics if line["split"] == "test")
    found = r2d2c.evaluate(run)
    assert (found["losses"], found["metrics"]) == (recorded["losses"], recorded["metrics"])
    model, x = run.load("last"), torch.randint(0, 40, (2, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings is BF16, cache_enabled=False):
        outputs = model(x=x)
        again = model(x=x, state=outputs["state"])
        step = model.learn(x=x, y=x)
    for state in (outputs["state"], again["state"], step.state):
        assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
