"""Training: settings, groups of visits, exactness of early steps and of resume, guards, inferred dims."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import Visit
from r2d2c.train.calls import Call
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.rates import by_parameter
from r2d2c.train.resolved import resolved_text
from r2d2c.train.run import next_folder
from r2d2c.train.settings import Settings, read_settings
from r2d2c.train.stepper import GROUP, Stepper, plan_groups
from tests.unit.runs import StopAt, assert_same_run, rows

SPECS = Path(__file__).parents[2] / "specs"
TWO = SPECS / "tasks" / "two_tasks.yaml"
TIMES = ("seconds", "rate")

NOISY = """\
r2d2c: 1
model: noisy
dims: {D: 64, H: 32, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  encode:
    behavior: h = x |> noise(0.1) |> linear(2*H) |> batch_norm |> relu |> dropout(0.2) |> linear(H)
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
  classify:
    behavior: logits = encode.h |> linear(H) |> batch_norm |> relu |> linear(C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: local, feed: encode.r}
outputs:
  logits: classify.logits
train:
  data: digits
  epochs: 4
  batch_size: 100
  optimizer: adamw(lr=2e-3)
  schedule: warmup(epochs=1) |> cosine
  metrics:
    - accuracy(logits, y)
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def noisy(folder: Path, **changes: str) -> Path:
    path = folder / "noisy.yaml"
    text = NOISY
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def settings_of(train: str) -> Settings | list[str]:
    sink = Sink()
    checked = r2d2c.loads(NOISY.partition("train:")[0] + "train:\n" + train)
    found = read_settings(checked, sink)
    return found if found is not None else [str(d).removeprefix("<spec>:") for d in sink.diagnostics]


# -- settings


def test_settings_of_a_spec() -> None:
    found = settings_of(
        "  epochs: 3\n  batch_size: 7\n  seed: 5\n  optimizer: adam(lr=1/2^8, betas=(0.9, 0.99))\n"
        "  schedule: warmup(epochs=2) |> step(every=3)\n  split: 0.25\n  metrics:\n    - accuracy(logits, y)\n"
        "  monitor: accuracy\n"
    )
    assert isinstance(found, Settings)
    assert (found.epochs, found.batch_size, found.seed, found.split, found.data) == (3, 7, 5, 0.25, None)
    assert (found.optimizer.name, dict(found.optimizer.arguments)) == (
        "adam",
        {"lr": 1 / 256, "betas": (0.9, 0.99)},
    )
    assert [(call.name, dict(call.arguments)) for call in found.schedule] == [
        ("warmup", {"epochs": 2}),
        ("step", {"every": 3}),
    ]
    assert (found.monitor.name, found.monitor.better) == ("accuracy(logits, y)", "higher")


def test_defaults() -> None:
    found = settings_of("  data: digits\n")
    assert isinstance(found, Settings)
    assert (found.epochs, found.batch_size, found.optimizer.name, found.monitor.name) == (
        10,
        128,
        "adam",
        "loss",
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("optimizer: adm(lr=1e-3)", "21:14: error[E530]: there is no optimizer `adm`"),
        ("optimizer: adam(1e-3)", "21:19: error[E540]: the arguments of an optimizer have names"),
        (
            "optimizer: adam(lr=x*2)",
            "21:22: error[E540]: `lr` of `adam` must be a number, a name or a tuple of numbers",
        ),
        ("optimizer: 3 + 4", "21:14: error[E540]: an optimizer is a name with arguments"),
        ("schedule: cosin", "21:13: error[E533]: there is no schedule `cosin`"),
        ("monitor: acuracy", "21:12: error[E541]: there is no metric or loss `acuracy` to monitor"),
        ("split: 1.5", "21:10: error[E542]: `split` must lie between 0 and 1, not be `1.5`"),
    ],
)
def test_mistakes_in_settings(train: str, message: str) -> None:
    assert settings_of(f"  {train}\n") == [message]


# -- steps between visits


def test_groups_join_small_visits_and_leave_large_ones() -> None:
    visits = [Visit(f"v{k}", (), (), (), (f"p{k}",)) for k in range(6)]
    sizes = {"p0": 10, "p1": 10, "p2": GROUP, "p3": GROUP, "p4": 10, "p5": 10}
    made = [(group.visit, group.names) for group in plan_groups(visits, sizes)]
    assert made == [(2, ("p0", "p1", "p2")), (3, ("p3",)), (5, ("p4", "p5"))]
    assert [group.visit for group in plan_groups(visits, sizes, early=False)] == [5]


@pytest.mark.parametrize("rates", [{}, {"t1": 0.1, "t*.r": 10, "t3.h": 0, "t4.*.linear.weight": 3}])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "nadam"])
def test_early_steps_are_those_of_one_step_at_the_end(name: str, rates: dict[str, float]) -> None:
    record = next(record for record in OPTIMIZERS if record.name == name)
    checked = r2d2c.load(SPECS / "tasks" / "four_task_chain.yaml", settings=["dims.H=512"])
    results = []
    for early in (True, False):
        model = r2d2c.compile(checked)
        parameters = dict(model.named_parameters())
        factors = by_parameter(rates, parameters)
        visits = model._training_graph.visits
        stepper = Stepper(parameters, visits, record, Call(name), early=early, rates=factors)
        assert len({group.factor for group in stepper.groups}) == 1 + len(rates)
        assert rates or len(stepper.groups) == (4 if early else 1)
        assert len({group.visit for group in stepper.groups}) == (4 if early else 1)
        stepper.zero_grad()
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            batch = {"x": torch.rand(16, 64, generator=generator), "y": torch.arange(16) % 10}
            for number, _ in enumerate(model.visits(**batch)):
                stepper.after(number)
        results.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        # Large gradients are freed at once, the others lie in one buffer.
        assert parameters["t1.h.dense.out.linear_2.weight"].grad is None
    for key, tensor in results[0].items():
        assert torch.equal(tensor, results[1][key]), key


def test_clipping_forbids_early_steps() -> None:
    checked = r2d2c.load(SPECS / "tasks" / "four_task_chain.yaml", settings=["dims.H=256"])
    model = r2d2c.compile(checked)
    record = next(record for record in OPTIMIZERS if record.name == "sgd")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stepper = Stepper(
        dict(model.named_parameters()),
        model._training_graph.visits,
        record,
        Call("sgd", {"lr": 1.0}),
        clip=0.5,
    )
    assert len(stepper.groups) == 1
    stepper.zero_grad()
    for number, _ in enumerate(model.visits(x=torch.rand(16, 64), y=torch.arange(16) % 10)):
        stepper.after(number)
    moved = [p.detach() - before[name] for name, p in model.named_parameters()]
    assert torch.cat([m.flatten() for m in moved]).norm() == pytest.approx(0.5, rel=1e-4)


# -- training and resume


def test_two_tasks_learn_the_digits(tmp_path: Path) -> None:
    run = r2d2c.train(TWO, out=tmp_path / "run")
    assert run.test is not None
    assert run.test["metrics"]["accuracy(logits, y)"] > 0.95
    assert [record["split"] for record in run.metrics] == ["train"] * 30 + ["test"]
    assert run.metrics[-2]["spread"]["encode.r"] > 0.9
    assert run.test == {**run.test, "checkpoint": "last", "samples": 359}
    again = r2d2c.evaluate(run)
    assert again["metrics"] == run.test["metrics"]
    assert again["losses"] == run.test["losses"]
    assert "accuracy(logits, y)" in run.summary
    assert (run.folder / "curves.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    return r2d2c.train(noisy(folder), out=folder / "run", settings=["train.split=0.1"]).folder


@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 6), (2, 13), (3, 13)])
def test_resume_is_exact(tmp_path: Path, uninterrupted: Path, epoch: int, batch: int) -> None:
    """With dropout, noise, batch norm and a schedule; in the middle of an epoch and at its end."""
    out = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        r2d2c.train(noisy(tmp_path), out=out, settings=["train.split=0.1"], callbacks=[StopAt(epoch, batch)])
    assert (caught.value.run, caught.value.epoch, caught.value.batch) == (out, epoch + 1, batch)
    torch.manual_seed(12345)  # what the process did before is of no importance
    r2d2c.train(resume=out)
    assert_same_run(uninterrupted, out)


def test_the_seed_matters_and_decides(tmp_path: Path) -> None:
    spec = noisy(tmp_path)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name) % 1000)
        r2d2c.train(spec, out=tmp_path / name, seed=seed, epochs=1)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_resume_with_more_epochs(tmp_path: Path) -> None:
    run = r2d2c.train(TWO, out=tmp_path / "run", epochs=2)
    with pytest.raises(CompileError, match=r"E548.*is finished: it has 2 of 2 epochs"):
        r2d2c.train(resume=run.folder)
    r2d2c.train(resume=run.folder, epochs=3)
    assert [(r["epoch"], r["split"]) for r in run.metrics] == [
        (1, "train"),
        (2, "train"),
        (2, "test"),
        (3, "train"),
        (3, "test"),
    ]


def test_a_schedule_ends_with_the_new_last_epoch(tmp_path: Path) -> None:
    whole = r2d2c.train(TWO, out=tmp_path / "whole", epochs=4, schedule="cosine")
    run = r2d2c.train(TWO, out=tmp_path / "run", epochs=2, schedule="cosine")
    r2d2c.train(resume=run.folder, epochs=4)
    rates = [[r["lr"] for r in a.metrics if "lr" in r] for a in (whole, run)]
    assert rates[1][-2:] == pytest.approx(rates[0][-2:], abs=1e-9)
    assert rates[1][1] < 1e-9 < rates[1][2]


def test_the_global_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    r2d2c.train(TWO, out=tmp_path / "run", epochs=1, limit_batches=2)
    assert torch.equal(torch.rand(3), expected)


def test_callbacks_and_limits(tmp_path: Path) -> None:
    class Count:
        steps = epochs = 0

        def on_step(self, step: Any) -> None:
            self.steps += 1
            assert set(step.losses) == {"encode", "classify"}

        def on_epoch(self, epoch: Any) -> None:
            self.epochs += 1

    count = Count()
    run = r2d2c.train(TWO, out=tmp_path / "run", epochs=2, limit_batches=3, callbacks=[count, object()])
    assert (count.steps, count.epochs) == (6, 2)
    assert [r["samples"] for r in run.metrics] == [384, 384, 359]


def test_batches_from_python(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [{"x": torch.rand(20, 64, generator=generator), "y": torch.arange(20) % 10} for _ in range(5)]
    run = r2d2c.train(TWO, data=batches, out=tmp_path / "run", epochs=2)
    assert run.test is None
    assert run.metrics[-1]["samples"] == 100
    with pytest.raises(CompileError, match="E545"):
        r2d2c.evaluate(run)
    assert r2d2c.evaluate(run, data={"train": batches, "test": batches[:1]})["samples"] == 20


# -- what stops a training


def test_nan_stops_and_names_the_loss(tmp_path: Path) -> None:
    spec = noisy(tmp_path, **{"mse(h, r)": "mse(log(h - 100), r)"})
    with pytest.raises(CompileError) as caught:
        r2d2c.train(spec, out=tmp_path / "run")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E536"
    assert diagnostic.message == "the loss `encode` became NaN in step 1, epoch 1"
    assert diagnostic.span is not None
    assert diagnostic.span.line == 12
    good = tmp_path / "run" / "checkpoints" / "last.safetensors"
    assert diagnostic.notes[-1] == f"the last good checkpoint is {good}, after epoch 0"
    assert all(torch.isfinite(t).all() for t in load_checkpoint(good).model.values())


def test_a_rate_too_large_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.train(noisy(tmp_path), out=tmp_path / "run", optimizer="sgd(lr=1e30)")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E536"
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(torch.isfinite(t).all() for t in checkpoint.model.values())


def test_a_collapse_is_told_once(tmp_path: Path) -> None:
    text = TWO.read_text().replace(", feed: encode.r", "").replace("    teach: encode + classify\n", "")
    (tmp_path / "spec.yaml").write_text(text)
    warned: list[Any] = []

    class Listen:
        def on_warning(self, diagnostic: Any) -> None:
            warned.append(diagnostic)

    r2d2c.train(tmp_path / "spec.yaml", out=tmp_path / "run", callbacks=[Listen()])
    (collapse,) = [d for d in warned if d.code == "W546"]
    assert (
        collapse.message
        == "the representative `encode.r` collapses: it is more and more the same for every sample"
    )
    assert "feed: encode.r" in collapse.fix.text


def test_missing_device(tmp_path: Path) -> None:
    for name in ("cuda:97", "gpu", "meta"):
        with pytest.raises(CompileError, match="E543"):
            r2d2c.train(TWO, out=tmp_path / "run", device=name)
    assert not (tmp_path / "run").exists()


# -- what a run is made of


def test_dims_come_from_the_data(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(TWO.read_text().replace("{D: 64, H: 64, C: 10}", "{D: infer, H: 64, C: infer}"))
    run = r2d2c.train(spec, out=tmp_path / "run", epochs=1)
    assert {name: int(size) for name, size in run.spec.graph.dims.items() if name in "DC"} == {
        "D": 64,
        "C": 10,
    }
    numpy.savez(tmp_path / "other.npz", x=numpy.zeros((40, 5), numpy.float32), y=numpy.arange(40) % 3)
    run = r2d2c.train(spec, data=f"npz:{tmp_path}/other.npz", out=tmp_path / "other", epochs=1)
    assert tuple(run.model(x=torch.zeros(1, 5))["logits"].shape) == (1, 3)


@pytest.mark.parametrize("path", sorted(SPECS.glob("*/*.yaml")), ids=lambda p: p.stem)
def test_the_resolved_spec_is_the_same_model_anywhere(path: Path, tmp_path: Path) -> None:
    if path.parent.name == "std":
        return
    checked = r2d2c.load(path, settings=["train.epochs=3", 'train.data="csv:a b.csv?target=#1"'])
    again = r2d2c.loads(resolved_text(checked), folder=tmp_path)
    assert again.settings == ()
    assert again.spec.document.train is not None
    assert (again.spec.document.train.epochs, again.spec.document.train.data) == (3, "csv:a b.csv?target=#1")
    one, two = ({n: (str(r.type), r.init) for n, r in c.graph.storage.items()} for c in (checked, again))
    assert one == two
    inference = [str(r2d2c.compile(c)._inference_lowered.fx) for c in (checked, again)]
    assert inference[0] == inference[1]


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    assert next_folder("a", tmp_path).name == "a-001"
    (tmp_path / "a-007").mkdir()
    (tmp_path / "a-x").mkdir()
    assert next_folder("a", tmp_path).name == "a-008"


def test_a_validation_split_decides_the_best(tmp_path: Path) -> None:
    run = r2d2c.train(TWO, out=tmp_path / "run", epochs=3, split=0.2)
    assert [r["split"] for r in run.metrics] == ["train", "validation"] * 3 + ["test"]
    assert run.which == "best"
    assert run.test is not None
    assert run.test["checkpoint"] == "best"
    assert r2d2c.evaluate(run, split="validation")["samples"] == run.metrics[1]["samples"]


def test_predictions(tmp_path: Path) -> None:
    run = r2d2c.train(TWO, out=tmp_path / "run", epochs=5)
    found = r2d2c.predict(run)
    assert found["logits"].shape == (359, 10)
    assert found.classes["logits"].tolist() == [str(k) for k in found["logits"].argmax(-1)]
    first, second = found.to_csv().splitlines()[:2]
    assert first == "split,row,logits_class," + ",".join(f"logits_{k}" for k in range(10))
    assert second.startswith("test,0,")
    assert len(r2d2c.predict(run, split="all")) == 1797
