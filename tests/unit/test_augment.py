"""Augmentations: each against a slow one written by hand, their draws, and what is said of mistakes in a spec."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import r2d2c
from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.train.data.augment import AUGMENTATIONS, Augmenter, Image, image_of
from r2d2c.train.data.draws import Draws

KNOWN = {augmentation.name: augmentation for augmentation in AUGMENTATIONS}
ROWS = torch.arange(40_000)

VIEWS = """
r2d2c: 1
model: views
dims: {C: 12}
inputs: {a: "f32[B, 1, 8, 8]", b: "f32[B, 1, 8, 8]"}
tasks:
  t:
    behavior: |
      p = flatten(a) |> linear(C)
      q = flatten(b) |> linear(C)
    distance: mse(p, q)
outputs: {p: t.p, q: t.q}
train:
  data: digits
  columns: {a: image, b: image}
  augment: {a: crop(pad=1) |> flip |> noise(std=0.1), b: crop(pad=1) |> flip |> noise(std=0.1)}
  epochs: 2
"""


def augmenter(image: Image | None, *calls: tuple[str, dict[str, Any]], port: str = "x") -> Augmenter:
    return Augmenter(
        port, [(KNOWN[name], {**KNOWN[name].arguments, **given}) for name, given in calls], image
    )


# Draws


def test_splitmix64() -> None:
    """The published first outputs of the generator from state 1234567 (Vigna's C code gives the same)."""
    keys = torch.tensor([1234567])
    found = [int(Draws(keys).bits(number)) % 2**64 for number in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_have_their_distributions() -> None:
    draws = Draws.of(ROWS, "augment", 0, 0, "x", 0)
    uniform = draws.uniform(0, -2.0, 3.0).numpy()
    assert stats.kstest(uniform, "uniform", args=(-2.0, 5.0)).pvalue > 1e-3
    counts = np.bincount(draws.below(1, 7).numpy(), minlength=7)
    assert len(counts) == 7 and stats.chisquare(counts).pvalue > 1e-3
    normal = draws.normal(9, torch.float64).numpy()
    assert normal.shape == (len(ROWS), 9)
    assert stats.kstest(normal[:2000].ravel(), "norm").pvalue > 1e-3
    assert abs(normal.std() - 1) < 0.01 and abs(normal.mean()) < 0.01
    correlation = np.corrcoef(normal.T) - np.eye(9)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(ROWS))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"port": "y"}, {"number": 1}])
def test_draws_of_other_purposes_are_independent(change: dict[str, Any]) -> None:
    def of(seed: int = 0, epoch: int = 0, port: str = "x", number: int = 0) -> np.ndarray[Any, Any]:
        return Draws.of(ROWS, "augment", seed, epoch, port, number).uniform(0).numpy()

    assert abs(np.corrcoef(of(), of(**change))[0, 1]) < 5 / np.sqrt(len(ROWS))
    assert abs(np.corrcoef(of()[:-1], of()[1:])[0, 1]) < 5 / np.sqrt(len(ROWS))


# Each augmentation


def draws_of(rows: torch.Tensor) -> Draws:
    return Draws.of(rows, "augment", 5, 2, "x", 0)


@pytest.mark.parametrize("image", [(1, 6, 9), (3, 8, 5)])
def test_crop_flip_and_cutout_sample_by_sample(image: Image) -> None:
    rows = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:64]
    values = torch.rand(64, *image, generator=torch.Generator().manual_seed(1)) + 1
    draws, (_, height, width) = draws_of(rows), image
    cropped = augmenter(image, ("crop", {"pad": 2}))(values, rows, 5, 2)
    flipped = augmenter(image, ("flip", {"chance": 0.3}))(values, rows, 5, 2)
    upside = augmenter(image, ("flip", {"vertical": True}))(values, rows, 5, 2)
    cut = augmenter(image, ("cutout", {"size": 3}))(values, rows, 5, 2)
    down, right = draws.below(0, 5).tolist(), draws.below(1, 5).tolist()
    chance = draws.uniform(0).tolist()
    top, left = draws.below(0, height).tolist(), draws.below(1, width).tolist()
    for k in range(64):
        for c, i, j in np.ndindex(*image):
            y, x = i + down[k] - 2, j + right[k] - 2
            inside = 0 <= y < height and 0 <= x < width
            assert cropped[k, c, i, j] == (values[k, c, y, x] if inside else 0)
            gone = top[k] - 1 <= i < top[k] + 2 and left[k] - 1 <= j < left[k] + 2
            assert cut[k, c, i, j] == (0 if gone else values[k, c, i, j])
        assert torch.equal(flipped[k], values[k].flip(2) if chance[k] < 0.3 else values[k])
        assert torch.equal(upside[k], values[k].flip(1) if chance[k] < 0.5 else values[k])
    assert set(down) == set(right) == set(range(5))


def test_jitter_and_noise() -> None:
    rows = torch.arange(300, 428)
    values = torch.rand(128, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jittered = augmenter(None, ("jitter", {"by": 0.25}))(values, rows, 5, 2)
    line = [np.polyfit(values[k].numpy(), jittered[k].numpy(), 1) for k in range(128)]
    factor, shift = np.array(line).T
    np.testing.assert_allclose(
        jittered.numpy(), values.numpy() * factor[:, None] + shift[:, None], atol=1e-12
    )
    assert 0.75 <= factor.min() < 0.8 and 1.2 < factor.max() <= 1.25
    assert -0.25 <= shift.min() < -0.2 and 0.2 < shift.max() <= 0.25
    noisy = augmenter(None, ("noise", {"std": 0.5}))(values, rows, 5, 2)
    assert stats.kstest((noisy - values).flatten() / 0.5, "norm").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_types_and_the_given_tensor_stay(dtype: torch.dtype) -> None:
    values = (torch.rand(9, 36) * 200).to(dtype)
    before = values.clone()
    calls: list[tuple[str, dict[str, Any]]] = [("crop", {"pad": 2}), ("flip", {}), ("cutout", {"size": 3})]
    calls += [("jitter", {}), ("noise", {})] if dtype != torch.uint8 else []
    found = augmenter((1, 6, 6), *calls)(values, torch.arange(9), 0, 0)
    assert found.dtype == dtype and found.shape == values.shape
    assert torch.equal(values, before) and not torch.equal(found, before)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_sample_is_augmented_the_same_in_every_batch(size: int, seed: int, dtype: torch.dtype) -> None:
    """To the last bit, wherever it stands in a batch of whatever size."""
    every = augmenter((1, 7, 7), *((name, {"pad": 2} if name == "crop" else {}) for name in KNOWN))
    rows = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    values = torch.rand(70, 49, generator=torch.Generator().manual_seed(seed)).to(dtype)
    whole = every(values[rows], rows, seed, 3)
    parts = [every(values[part], part, seed, 3) for part in rows.split(size)]
    assert torch.equal(whole, torch.cat(parts))


def test_the_shape_of_an_image() -> None:
    assert image_of((8, 9), None) == (1, 8, 9)
    assert image_of((3, 8, 9), (1, 1)) == (3, 8, 9)
    assert image_of((216,), (3, 8, 9)) == (3, 8, 9)
    assert image_of((216,), None) is image_of((216,), (1, 8, 9)) is image_of((2, 3, 8, 9), None) is None


# In a spec


def test_two_views_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "views.yaml").write_text(VIEWS)
    seen: list[dict[str, torch.Tensor]] = []

    class Look:
        def on_ready(self, trainer: Any) -> None:
            for epoch in (0, 0, 1):
                seen.append(next(iter(trainer.loader.epoch(epoch))))
            seen.append(next(iter(trainer.data.test.loader(64).epoch(0))))
            seen.append(next(iter(trainer.judge.sample(0))))

    run = r2d2c.train(tmp_path / "views.yaml", out=tmp_path / "run", callbacks=[Look()])
    first, again, later, test, sample = seen
    assert torch.equal(first["a"], again["a"]) and torch.equal(first["b"], again["b"])
    assert not torch.equal(first["a"], first["b"]), "the views have draws of their own"
    assert not torch.equal(first["a"], later["a"]), "another epoch has others"
    for plain in (test, sample):
        assert torch.equal(plain["a"], plain["b"]), "what is measured is not augmented"
        assert set((plain["a"] * 16).unique().tolist()) <= set(range(17))
    losses = [record["losses"]["t"] for record in run.metrics if record["split"] == "train"]
    assert losses[1] < losses[0]


def test_flat_images_are_known_by_the_column_image(tmp_path: Path) -> None:
    flat = (
        VIEWS.replace("f32[B, 1, 8, 8]", "f32[B, 64]").replace("flatten(a)", "a").replace("flatten(b)", "b")
    )
    batches = []
    for name, text in (("flat", flat), ("square", VIEWS)):
        (tmp_path / f"{name}.yaml").write_text(text)

        class Look:
            def on_ready(self, trainer: Any) -> None:
                batches.append(next(iter(trainer.loader.epoch(1))))

        r2d2c.train(tmp_path / f"{name}.yaml", out=tmp_path / name, callbacks=[Look()], epochs=1)
    assert torch.equal(batches[0]["a"], batches[1]["a"].flatten(1))


def mistakes(folder: Path, *changes: str, **options: Any) -> list[Diagnostic]:
    (folder / "views.yaml").write_text(VIEWS)
    with pytest.raises(CompileError) as caught:
        r2d2c.train(folder / "views.yaml", out=folder / "run", settings=changes, **options)
    assert not (folder / "run").exists()
    return list(caught.value.diagnostics)


@pytest.mark.parametrize(
    ("change", "message", "fix"),
    [
        ("a=crop(2)", "E650: the arguments of an augmentation have names", "write `crop(pad=2)`, say"),
        ("a=3", "E650: an augmentation is a name with arguments", "write it as `crop(pad=2) |> flip`"),
        ("a=flop", "E650: there is no augmentation `flop`", "did you mean `flip`?"),
        ("c=flip", "E652: `c` is no input or target of the spec, so there is nothing to augment", None),
        ("a=crop(size=2)", "E531: augmentation `crop` has no argument `size`", None),
        (
            "a=noise(std=much)",
            "E532: argument `std` of augmentation `noise` must be a number, not 'much'",
            None,
        ),
        ("a=flip(chance=2)", "E651: `chance` of augmentation `flip` is between 0 and 1, not 2", None),
        ("a=crop(pad=0)", "E651: `pad` of augmentation `crop` is at least 1, not 0", None),
        ("a=crop(pad=1.5)", "E651: `pad` of augmentation `crop` is a whole number, not 1.5", None),
        ("a=noise(std=-1)", "E651: `std` of augmentation `noise` is at least 0, not -1", None),
        ("a=cutout(size=9)", "E651: `size` of `cutout` is 9, and the images of port `a` are 8x8", None),
    ],
)
def test_mistakes(tmp_path: Path, change: str, message: str, fix: str | None) -> None:
    (diagnostic,) = mistakes(tmp_path, f"train.augment.{change}")
    assert f"{diagnostic.code}: {diagnostic.message}" == message
    assert diagnostic.span is not None
    assert (diagnostic.fix.text if diagnostic.fix else None) == fix


def test_what_does_not_fit_its_port(tmp_path: Path) -> None:
    spec = VIEWS.replace('a: "f32[B, 1, 8, 8]"', 'a: "f32[B, 30]"').replace("flatten(a)", "a")
    spec = spec.replace("columns: {a: image, b: image}", "columns: {a: features, b: image}")
    rng = np.random.default_rng(0)
    arrays = {"features": rng.random((20, 30)), "image": rng.random((20, 1, 8, 8))}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "views.yaml").write_text(spec.replace("data: digits", "data: npz:data.npz"))
    with pytest.raises(CompileError) as caught:
        r2d2c.train(tmp_path / "views.yaml", out=tmp_path / "run")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E653"
    assert diagnostic.message == "`crop` is for images, and port `a` is f32[B, 30]"
    assert diagnostic.fix is not None and "f32[B, channels, height, width]" in diagnostic.fix.text
    assert not (tmp_path / "run").exists()
    whole = spec.replace('"f32[B, 30]"', '"i64[B, 8, 8]"').replace("p = a", "p = cast(flatten(a), f32)")
    np.savez(tmp_path / "data.npz", features=np.ones((20, 8, 8), np.int64), image=arrays["image"])
    (tmp_path / "views.yaml").write_text(whole.replace("data: digits", "data: npz:data.npz"))
    with pytest.raises(CompileError, match=r"E653.*`noise` is for floats, and port `a` is i64"):
        r2d2c.train(tmp_path / "views.yaml", out=tmp_path / "run")


def test_batches_from_python_come_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "views.yaml").write_text(VIEWS)
    batch = {"a": torch.ones(4, 1, 8, 8), "b": torch.ones(4, 1, 8, 8)}
    said: list[str] = []
    seen: list[torch.Tensor] = []

    class Look:
        def on_ready(self, trainer: Any) -> None:
            seen.extend(each["a"] for each in trainer.loader.epoch(0))

        def on_warning(self, diagnostic: Diagnostic) -> None:
            said.append(f"{diagnostic.code}: {diagnostic.message}")

    r2d2c.train(tmp_path / "views.yaml", data=[batch], out=tmp_path / "run", callbacks=[Look()])
    assert said == ["W656: batches come as they are: `augment` changes nothing in them"]
    assert torch.equal(seen[0], batch["a"])
