"""Runs with optimizers by parameter, clipping, accumulation, early stopping and fewer bits: exact resume, summaries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.train.checkpoint import load_checkpoint
from r2d2c.train.interrupt import Interrupted
from r2d2c.train.precision import around, prepare
from r2d2c.train.settings import read_settings
from tests.unit.runs import StopAt, assert_same_run, rows

SPECS = Path(__file__).parents[2] / "specs"
TIMES = ("seconds", "rate")

SPEC = """\
r2d2c: 1
model: optimized
dims: {D: 64, H: 24, C: 10}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  encode:
    behavior: h = x |> noise(0.1) |> linear(H) |> batch_norm |> tanh |> linear(H)
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
    keep: own
  classify:
    behavior: logits = encode.h |> dropout(0.1) |> linear(C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: synthetic(every=3)}
outputs:
  logits: classify.logits
train:
  data: digits
  epochs: 2
  batch_size: 100
  optimizer: adamw(lr=2e-3)
  metrics:
    - accuracy(logits, y)
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def spec(folder: Path, *lines: str) -> Path:
    path = folder / "optimized.yaml"
    path.write_text(SPEC + "".join(f"  {line}\n" for line in lines))
    return path


MANY = (
    "optimizers:\n    encode.r: sgd(lr=0.1, momentum=0.9)\n    matrices: muon(lr=0.01)\n    vectors: rprop",
    "no_decay: [norm]",
)
CASES: dict[str, tuple[str, ...]] = {
    "optimizers": (*MANY, "schedule: one_cycle"),
    "adafactor": ("optimizers: {encode: adafactor}", "schedule: multistep(at=1)"),
    "clip": ("clip: {encode: 0.1, classify: value(0.01)}", "schedule: cosine_restarts(every=1)"),
    "accumulate": ("accumulate: 4", "schedule: warmup(epochs=1) |> polynomial", "clip: 0.5"),
    "accumulate parts": ("accumulate: 5", "rates: {encode.r: 0}", *MANY),
    "plateau": ("schedule: warmup(epochs=1) |> plateau(patience=0, threshold=0.5)", "split: 0.1"),
    "bf16": ("precision: bf16", "accumulate: 5"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The uninterrupted run of a case."""
    made: dict[str, Path] = {}

    def run(case: str) -> Path:
        if case not in made:
            folder = tmp_path_factory.mktemp("whole")
            made[case] = r2d2c.train(spec(folder, *CASES[case]), out=folder / "run").folder
        return made[case]

    return run


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 13)])
@pytest.mark.parametrize("case", CASES)
def test_resume_is_exact(
    tmp_path: Path, whole: Callable[[str], Path], case: str, epoch: int, batch: int
) -> None:
    with pytest.raises(Interrupted):
        r2d2c.train(spec(tmp_path, *CASES[case]), out=tmp_path / "run", callbacks=[StopAt(epoch, batch)])
    accumulated = (
        "accumulated" in load_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors").optimizers
    )
    assert accumulated == any(line.startswith("accumulate") for line in CASES[case])
    torch.manual_seed(12345)
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(whole(case), tmp_path / "run")


@pytest.mark.parametrize("batch", [2, 5])
def test_growth_does_not_cut_an_accumulation(tmp_path: Path, batch: int) -> None:
    """A round in the midst of an accumulation comes after a step of what there is; resume is exact."""
    settings = [
        "train.accumulate=4",
        "train.epochs=1",
        "op_graphs.pixels.grow={every: steps(3), add: 4, prune: 2}",
    ]
    digits = SPECS / "growth" / "digits.yaml"
    whole = r2d2c.train(digits, out=tmp_path / "whole", settings=settings)
    assert json.dumps(rows(whole.folder)).count("pixels")
    with pytest.raises(Interrupted):
        r2d2c.train(digits, out=tmp_path / "run", settings=settings, callbacks=[StopAt(0, batch)])
    r2d2c.train(resume=tmp_path / "run")
    assert_same_run(whole.folder, tmp_path / "run")


def test_from_a_run_with_other_optimizers(tmp_path: Path) -> None:
    """`--from` takes the state of each parameter whose optimizer is the same."""
    run = r2d2c.train(spec(tmp_path, *CASES["optimizers"]), out=tmp_path / "run", limit_batches=3, epochs=1)
    settings = ["train.optimizers.vectors=adamw"]
    told = r2d2c.train(
        spec(tmp_path, *CASES["optimizers"]), out=tmp_path / "next", settings=settings, start=run, epochs=1
    )
    report = json.loads((told.folder / "transplant.json").read_text())
    text = json.dumps(report)
    assert text.count("new: the run had rprop") == 6
    assert "sgd" not in text


def test_sequences_in_parts_make_one_step(tmp_path: Path) -> None:
    """All parts of so many batches: the state goes on between the parts, the parameters do not change."""
    symbols = SPECS / "memory" / "gru.yaml"
    settings = ["train.epochs=1", "train.accumulate=2"]
    counted = []

    class Look:
        def on_ready(self, trainer: Any) -> None:
            step = trainer.stepper._step
            trainer.stepper._step = lambda visit, scale: (
                counted.append((trainer.batches, scale)),
                step(visit, scale),
            )

    r2d2c.train(
        symbols, out=tmp_path / "run", settings=settings, chunk=5, limit_batches=3, callbacks=[Look()]
    )
    assert [batches for batches, _ in counted] == [1, 3]
    assert all(0 < scale < 1 for _, scale in counted)


# -- early stopping


def test_training_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    lines = ("early_stop: 2", "split: 0.1", "schedule: multistep(at=2, gamma=1e-9)", "monitor: classify")
    path = spec(tmp_path, *lines)
    stops: list[Any] = []

    class Hearing:
        def on_epoch(self, info: Any) -> None:
            stops.append(info.stop)

    run = r2d2c.train(path, out=tmp_path / "run", epochs=40, callbacks=[Hearing()])
    state = run.files.load().state
    assert state["finished"]
    assert state["epoch"] == state["stopped"] < 40
    assert state["stale"] == 2
    assert state["best"]["epoch"] == state["stopped"] - 2
    text = f"after epoch {state['stopped']}: classify was no better for 2 epochs"
    assert f"stopped early: {text}" in run.summary
    assert [str(stop) for stop in stops if stop is not None] == [f"stopped early {text}"]
    assert len(stops) == state["stopped"] and stops[-1] is not None
    assert [r["split"] for r in run.metrics][-1] == "test"
    assert len([r for r in run.metrics if r["split"] == "train"]) == state["stopped"]
    with pytest.raises(CompileError, match=r"E548.*is finished: it has \d+ of 40 epochs, and stopped early"):
        r2d2c.train(resume=run.folder)
    # With more epochs it goes on, until nothing gets better again.
    r2d2c.train(resume=run.folder, epochs=44)
    assert run.files.load().state["stopped"] > state["stopped"]

    for batch in (4, 13):
        again = tmp_path / f"again{batch}"
        with pytest.raises(Interrupted):
            r2d2c.train(path, out=again, epochs=40, callbacks=[StopAt(state["stopped"] - 1, batch)])
        r2d2c.train(resume=again)
        assert (
            load_checkpoint(again / "checkpoints" / "last.safetensors").state["stopped"] == state["stopped"]
        )
        assert rows(again) == rows(run.folder)[: len(rows(again))]


# -- fewer bits


def losses_of(run: Any, name: str = "classify") -> list[float]:
    return [r["losses"][name] for r in run.metrics if r["split"] == "train"]


@pytest.mark.parametrize(
    "name",
    ["baselines/conv", "tasks/two_tasks", "credit/target"],
)
def test_bf16_learns_and_parameters_are_f32(tmp_path: Path, name: str) -> None:
    settings = ["train.precision=bf16"]
    run = r2d2c.train(
        SPECS / f"{name}.yaml", out=tmp_path / "run", settings=settings, epochs=3, data="digits"
    )
    model = run.load("last")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    checkpoint = run.files.load()
    for packed in checkpoint.optimizers.values():
        assert {t.dtype for t in packed.tensors.values()} == {torch.float32}
    total = [r["loss"] for r in run.metrics if r["split"] == "train"]
    assert total[-1] < total[0]
    plain = r2d2c.train(SPECS / f"{name}.yaml", out=tmp_path / "plain", epochs=3, data="digits")
    wanted = [r["loss"] for r in plain.metrics if r["split"] == "train"]
    assert total != wanted
    assert total == pytest.approx(wanted, rel=0.1)
    assert "precision" in run.summary
    assert run.test is not None
    assert r2d2c.evaluate(run)["metrics"] == run.test["metrics"]


class Seen(TorchDispatchMode):
    """The types that matrix products are of."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.types.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


def model_in(precision: str, text: str) -> Any:
    model = r2d2c.compile(r2d2c.loads(text))
    prepare(model, precision)
    return model


@pytest.mark.parametrize(
    ("precision", "kind"), [("f32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_made_in_few_bits(precision: str, kind: torch.dtype) -> None:
    """Those of the forward and of the backward."""
    model = model_in(precision, SPEC)
    batch = {"x": torch.rand(8, 64), "y": torch.arange(8)}
    with Seen() as seen, around(model):
        for _ in model.visits(**batch):
            pass
    assert seen.types == {kind}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    with Seen() as seen, torch.no_grad(), around(model):
        model(x=batch["x"])
    assert seen.types == {kind}


@pytest.mark.parametrize("credit", ["backprop", "local", "feedback"])
def test_fp16_scales_small_gradients(credit: str) -> None:
    """Gradients that fp16 has no numbers for arrive, under every rule; an overflow takes a smaller scale."""
    head = SPEC.partition("links:")[0].replace("x |> noise(0.1) |> ", "x |> ").replace(" |> batch_norm", "")
    text = (
        head.replace("|> dropout(0.1) ", "").replace("    keep: own\n", "")
        + f"credit: {credit}\noutputs:\n  logits: classify.logits\n"
    )
    tiny = text.replace("cross_entropy(logits, y)", "1e-7 * cross_entropy(logits, y)")
    batch = {"x": torch.rand(64, 64), "y": torch.arange(64) % 10}
    found = []
    for precision in ("f32", "fp16"):
        model = model_in(precision, tiny)
        with around(model):
            model.learn(**batch)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, wanted in found[0].items():
        assert float((found[1][name] - wanted).norm()) <= 0.03 * float(wanted.norm()), name
    assert float(found[0]["classify.logits.linear.weight"].abs().max()) < 6e-8  # fp16's smallest number
    model._scaler.scale = 2.0**60
    model.zero_grad()
    with around(model):
        model.learn(**batch)
    assert 2**16 < model._scaler.scale < 2.0**60
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("growth/digits bf16", "`op_graph` sums up products in a way of its own, so it learns in f32 alone"),
        (
            "r2d2/modalities bf16",
            "`bilinear` sums up products in a way of its own, so it learns in f32 alone",
        ),
        (
            "credit/hebbian bf16",
            "`hebbian` changes weights by its own small products, so it learns in f32 alone",
        ),
        (
            "credit/equilibrium bf16",
            "`equilibrium` takes the difference of two phases that are nearly the same, so it learns in f32 alone",
        ),
        (
            "credit/direct fp16",
            "`direct` sends signals that are products, and those of small ones are 0 in fp16",
        ),
        ("memory/two_symbols bf16", ""),
    ],
)
def test_what_needs_f32_says_so(path: str, message: str) -> None:
    sink = Sink()
    name, precision = path.split()
    settings = [f"train.precision={precision}"]
    found = read_settings(r2d2c.load(SPECS / f"{name}.yaml", settings=settings), sink)
    assert (found is None) == bool(message)
    if not message:
        return
    assert [f"{d.code}: {d.message}" for d in sink.diagnostics] == [f"E664: {message}"]


def test_fp16_is_for_cuda(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.train(
            SPECS / "tasks" / "two_tasks.yaml", out=tmp_path / "run", settings=["train.precision=fp16"]
        )
    assert str(caught.value.diagnostics[0]).endswith(
        "error[E665]: fp16 is for CUDA devices, and this is `cpu`"
    )
