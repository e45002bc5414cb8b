"""`std/heads`: train-only heads of single layers, against hand-written PyTorch; inference and export have none of them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c import compile, load, loads
from r2d2c.prove import prove
from r2d2c.sampling import random_batch

ROOT = Path(__file__).parents[2]
SPECS = {name: ROOT / f"specs/credit/{name}.yaml" for name in ("local_heads", "similarity")}
TEXT = """r2d2c: 1
imports: [std/heads]
dims: {D: 12, H: 6, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  t:
    behavior: h = x |> linear(H) |> relu
    distance: LOSS
  out:
    behavior: logits = linear(t.h, C)
    distance: cross_entropy(logits, y)
credit: local
outputs:
  logits: out.logits
"""
IMAGES = TEXT.replace("f32[B, D]", "f32[B, 1, 4, 4]").replace(
    "x |> linear(H)", "x |> conv2d(4, 3, padding=1)"
)
IMAGES = IMAGES.replace("linear(t.h, C)", "t.h |> flatten |> linear(C)").replace("D: 12, H: 6, ", "")


def cosines(z):
    z = z - z.mean(1, keepdim=True)
    z = z / z.norm(dim=1, keepdim=True)
    return z @ z.T


def classified(p, h, y):
    return F.cross_entropy(F.linear(h.flatten(1), p["out.linear.weight"], p["out.linear.bias"]), y)


def similar(p, h, y):
    return F.mse_loss(cosines(F.linear(h, p["seen.linear.weight"])), cosines(F.one_hot(y, 3).to(h)))


def similar_images(p, h, y):
    z = F.conv2d(h, p["seen.conv2d.weight"], padding=1).std((2, 3))
    return F.mse_loss(cosines(z), cosines(F.one_hot(y, 3).to(h)))


def inside(p, block):
    return {
        name.removeprefix(f"{block}."): value for name, value in p.items() if name.startswith(f"{block}.")
    }


def both(p, h, y):
    parts = {name.partition(".")[2] if name.startswith("out.") else name: v for name, v in p.items()}
    return 0.25 * classified(inside(parts, "local_error"), h, y) + 0.75 * similar(
        inside(parts, "similarity_error"), h, y
    )


CASES = {
    "local_error(h, y, C)": (TEXT, classified),
    "similarity_error(h, y, C, width=8)": (TEXT, similar),
    "predsim_error(h, y, C, width=8, share=0.75)": (TEXT, both),
    "local_error(h, y, C) # images": (IMAGES, classified),
    "similarity_conv_error(h, y, C)": (IMAGES, similar_images),
}


@pytest.mark.parametrize("loss", CASES)
def test_a_head_is_its_formula(loss: str) -> None:
    text, formula = CASES[loss]
    spec = loads(text.replace("LOSS", loss.partition(" #")[0]))
    assert not spec.diagnostics
    model = compile(spec).double()
    batch = random_batch(model.graph, sizes={"B": 9})
    x, y = batch["x"].double(), batch["y"]
    step = model.learn(x=x, y=y)
    p = {name: v.detach().clone().requires_grad_() for name, v in model.named_parameters()}
    if text is TEXT:
        h = F.linear(x, p["t.h.linear.weight"], p["t.h.linear.bias"]).relu()
    else:
        h = F.conv2d(x, p["t.h.conv2d.weight"], p["t.h.conv2d.bias"], padding=1).relu()
    value = formula(inside(p, f"t.{loss.partition('(')[0]}"), h, y)
    value.backward()
    torch.testing.assert_close(step.losses["t"], value.detach())
    found = {name: v.grad for name, v in model.named_parameters() if name.startswith("t.")}
    assert len(found) > 2
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, p[name].grad, msg=lambda m, n=name: f"{n}: {m}")
    assert prove(model).ok


def test_a_head_may_stay_as_it_is_drawn() -> None:
    model = compile(loads(TEXT.replace("LOSS", "local_error(h, y, C, fixed=true)")))
    assert [name for name, _ in model.named_parameters() if "local_error" in name] == []
    assert model.wiring()["t"]["t.h.linear.weight"] == "gradient"


@pytest.mark.parametrize("name", SPECS)
def test_inference_and_export_have_no_heads(name: str, tmp_path: Path) -> None:
    import onnx

    spec = load(SPECS[name])
    assert not spec.diagnostics
    model = compile(spec)
    heads = {p for p, _ in model.named_parameters() if "_error" in p}
    assert {p.partition(".")[0] for p in heads} == {"t1", "t2", "t3", "t4"}
    wiring = model.wiring()
    assert all(wiring[p.partition(".")[0]][p] == "gradient" for p in heads)
    assert all(wiring["out"][p] is None for p in wiring["out"] if not p.startswith("out."))
    r2d2c.export(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    known = {i.name for i in graph.initializer} | {n.name for n in graph.node} | {i.name for i in graph.input}
    assert not any("error" in n or n == "y" for n in known)
    assert not any("error" in str(node) for node in model.graphs["inference"].graph.nodes)


@pytest.mark.parametrize("name", SPECS)
def test_another_credit_drops_the_heads(name: str) -> None:
    """So `compare` is well defined: under `direct`, a task below has no distance of its own."""
    spec = load(SPECS[name], credit="direct")
    assert not spec.diagnostics
    model = compile(spec)
    wiring = model.wiring()
    assert not any(entry for loss, row in wiring.items() if loss != "out" for entry in row.values())
    assert not any(entry for p, entry in wiring["out"].items() if "_error" in p)
    assert list(model.learn(**random_batch(model.graph)).losses) == ["out"]
