"""The complete model of specs/r2d2 and its ablations: what is switched off leaves no trace, a batch is its samples."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c.model import Model

SPECS = Path(__file__).parents[2] / "specs" / "r2d2"


def compiled(name: str, *settings: str) -> Model:
    return r2d2c.compile(r2d2c.load(SPECS / f"{name}.yaml", settings=settings))


def batch(size: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 1, 28, 28, generator=generator)
    return {"image": image, "y": torch.randint(0, 10, (size,), generator=generator)}


def trained(model: Model, passes: int = 3) -> dict[str, torch.Tensor]:
    """The parameters after some steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(passes):
        model.zero_grad()
        model.learn(**batch())
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_every_spec_is_short() -> None:
    for path in SPECS.glob("*.yaml"):
        assert len(path.read_text("utf-8").splitlines()) <= 60, path.name


def test_without_the_inverse_it_is_the_spec_without_it() -> None:
    off = trained(compiled("fashion", "losses.inverse.weight=0"))
    assert_same(off, trained(compiled("no_inverse")))


def test_without_distillation_it_is_the_spec_without_it() -> None:
    off = trained(compiled("fashion", "losses.early.weight=0", "losses.narrow.weight=0"))
    assert_same(off, trained(compiled("no_distillation")))


def test_shared_weights_are_the_spec_without_hypernets() -> None:
    """The same layers, under the hypernets' names in one and under those of blocks in the other."""
    off = "losses.inverse.weight=0"  # there the blocks of the inverse loop are layers of their own
    shared, plain = compiled("shared_weights", off), compiled("no_hypernet", off)
    names = {}
    for name in dict(plain.named_parameters()):
        net = next((n for n in ("view", "recast") if f".{n}.out." in name), None)
        if net is None or name.startswith("refine."):
            names[name if net is None else f"{net}.{name.partition('.out.')[2]}"] = name
    mine, theirs = dict(shared.named_parameters()), dict(plain.named_parameters())
    assert names.keys() == mine.keys()
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(theirs[names[name]])
    one, two = trained(shared), trained(plain)
    for name, value in one.items():
        assert torch.equal(value, two[names[name]]), name
    given = batch()["image"]
    for depth in (1, 3, 8):
        left, right = (m(image=given, depth=depth)["logits"] for m in (shared, plain))
        assert torch.equal(left, right)


def test_a_batch_is_its_samples() -> None:
    model = compiled("fashion")
    given = batch()
    whole = model.learn(**given)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for k in range(6):
        one = model.learn(**{name: value[k : k + 1] for name, value in given.items()})
        torch.testing.assert_close(
            one.outputs["logits"], whole.outputs["logits"][k : k + 1], rtol=1e-5, atol=1e-5
        )
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad / 6, gradients[name], rtol=1e-4, atol=1e-5)


def test_generated_weights_differ_between_samples_and_steps() -> None:
    """The bug that the idea's first version had: every weight was the same, for every sample and at every step."""
    values = compiled("fashion").trace(**batch()).values
    scales = [values[f"view.linear.scale@{step}"] for step in (1, 2, 3)]
    # The first step's context is the learned one, for all samples; from then on it knows of its sample.
    assert torch.equal(scales[0][0], scales[0][1])
    for value in scales[1:]:
        apart = (value[:, None] - value[None]).abs().amax(2)
        assert apart[~torch.eye(len(value), dtype=torch.bool)].min() > 1e-3
    for before, after in pairwise(scales):
        assert (before - after).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("name", ["fashion", "no_hypernet"])
def test_it_learns_a_batch_by_heart(name: str) -> None:
    model = compiled(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    given = batch(16)
    first = model.losses(**given)["think"]
    for _ in range(40):
        model.zero_grad()
        model.learn(**given)
        optimizer.step()
    assert model.losses(**given)["think"] < first / 5
