"""The forms that hypernets take: their types, their product, the choice, `plan`, and what is written of them."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.graph import Graph
from r2d2c.ops.functions import bilinear
from r2d2c.passes import forms_rule
from r2d2c.passes.inline import inference_graph
from r2d2c.types import Dim
from tests.unit.hypernet_oracle import CASES, MODES, OPS, B, S, draw, model_of, text


@pytest.mark.parametrize("mode", MODES)
def test_which_forms_make_a_matrix_for_every_sample(mode: str) -> None:
    """Of all values, the one with the most numbers a sample against the weight's number of numbers."""
    for makes, dims, count in ((*OPS["linear"], 42), (*OPS["linear of rows"], 42), (*OPS["conv2d"], 189)):
        model = model_of(makes, ("B", *dims), ("B", S), MODES[mode])
        form = model.spec.graph.generated[0].form
        whole = form in ("batched", "made")
        assert (largest(model.spec.graph) >= count) == whole
        if "factors" in mode or mode == "scale":
            assert not whole


def largest(graph: Graph) -> int:
    flat = inference_graph(graph)
    ports = {port.value for port in flat.body.inputs}
    found = [0]
    for node in flat.body.nodes:
        type_ = flat.types[node.value()]
        if node.value() not in ports and any(isinstance(dim, Dim) for dim in type_.dims):
            found.append(math.prod(int(dim) for dim in type_.dims if isinstance(dim, int)))
    return max(found)


@pytest.mark.parametrize(
    ("mode", "op"), [(mode, op) for mode, op in CASES if op not in ("conv1d", "group_norm")]
)
def test_an_exported_hypernet_gives_the_same(mode: str, op: str, tmp_path: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    makes, dims = OPS[op]
    model = model_of(makes, ("B", *dims), ("B", S), MODES[mode]).float()
    r2d2c.export(model, tmp_path / "m.onnx")
    x, c = draw(B, *dims).float(), draw(B, S).float()
    (out,) = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x.numpy(), "c": c.numpy()})
    assert torch.allclose(torch.from_numpy(out), model(x=x, c=c)["o"], atol=1e-5)


def test_a_written_python_file_has_the_same_numbers() -> None:
    from r2d2c.emit import emit_python

    spec = text("linear(7)", "B, 6", "B, 5", "hidden: 4").replace("r2d2c: 1", "r2d2c: 1\nmodel: written")
    model = r2d2c.compile(r2d2c.loads(spec))
    scope: dict[str, Any] = {"__name__": "written"}
    exec(emit_python(model), scope)
    written = scope["Written"]()
    x, c, y = draw(B, 6).float(), draw(B, 5).float(), draw(B).float()
    assert torch.allclose(written(x, c)["o"], model(x=x, c=c)["o"], atol=1e-6)
    written.learn(x, c, y)
    model.learn(x=x, c=c, y=y)
    mine = dict(model.named_parameters())
    for name, value in written.named_parameters():
        assert torch.allclose(value.grad, mine[name].grad, atol=1e-6), name


# -- the product that a reordered linear is


@pytest.mark.parametrize("dims", [(5, 3, 4, 6), (64, 16, 4096, 8), (1, 2, 3, 4)])
def test_bilinear_is_the_sum_of_products(dims: tuple[int, int, int, int]) -> None:
    rows, left, right, out = dims
    x, y, w = (draw(*sizes).requires_grad_() for sizes in ((rows, left), (rows, right), (out, left, right)))
    value = bilinear(x, y, w, None)
    delta = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(value, (x, y, w), delta)
    expected = torch.einsum("bi,oij,bj->bo", x, w, y)
    assert torch.allclose(value, expected, rtol=1e-10, atol=1e-9)
    for mine, theirs in zip(found, torch.autograd.grad(expected, (x, y, w), delta), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-8)


def test_bilinear_can_be_differentiated_twice() -> None:
    given = [draw(*sizes).requires_grad_() for sizes in ((3, 2), (3, 4), (5, 2, 4))]
    call = lambda x, y, w: bilinear(x, y, w, None)  # noqa: E731
    assert torch.autograd.gradcheck(call, given)  # type: ignore[no-untyped-call]
    assert torch.autograd.gradgradcheck(call, given)  # type: ignore[no-untyped-call]


def test_bilinear_goes_through_torch_compile() -> None:
    given = [draw(*sizes).requires_grad_() for sizes in ((3, 2), (3, 4), (5, 2, 4))]
    compiled = torch.compile(bilinear, backend="aot_eager", fullgraph=True)
    value = compiled(*given, None)
    plain = bilinear(*given, None)
    assert torch.allclose(value, plain, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(value.sum(), given), torch.autograd.grad(plain.sum(), given), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-12)


# -- the choice and the plan


def test_the_form_follows_the_cost() -> None:
    reorder, why = forms_rule.choose([], 32, {})
    assert (reorder, "1 row a matrix" in why) == ("reorder", True)
    assert forms_rule.choose([64], 32, {})[0] == "batched"
    assert forms_rule.choose([2], 8, {})[0] == "reorder"
    from r2d2c.types import symbol

    form, why = forms_rule.choose([symbol("T")], 8, {"T": (100, 300)})
    assert form == "batched" and "T = 200" in why


def test_plan_counts_what_is_generated() -> None:
    from r2d2c.credit.registry import rules
    from r2d2c.plan import plan

    def planned(options: str, batch: int) -> Any:
        checked = r2d2c.loads(text("linear(64)", "B, 32", "B, 5", options))
        return plan(checked, rules(), batch)

    full, factors, chunks = (planned(o, 16) for o in ("hidden: 4", "rank: 2", "hidden: 4\n    chunks: 2"))
    weight = full.generated[0]
    assert (weight.name, weight.numbers, weight.made, weight.bytes) == ("view.linear.weight", 64 * 32, 0, 0)
    assert weight.form == "full, reorder" and "1 row a matrix" in weight.why
    assert (factors.generated[0].numbers, factors.generated[0].made) == (64 * 32, 2)
    assert chunks.generated[0].bytes == 16 * 64 * 32 * 4
    assert chunks.peak > 16 * 64 * 32 * 4 > full.peak > factors.peak


def test_plan_has_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from r2d2c.cli.main import main

    path = tmp_path / "spec.yaml"
    path.write_text(text("linear(64)", "B, 32", "B, 5", "hidden: 4\n    chunks: 2"), "utf-8")
    # 16 samples of 64 by 32 numbers of 4 bytes are generated; the whole visit holds more.
    for limit, what in (
        ("130kB", "`view.linear.weight` is generated as 128.0 KiB"),
        ("131072", "the visit `t` holds"),
    ):
        assert main(["plan", str(path), "--batch", "16", "--limit", limit]) == 1
        said = capsys.readouterr().err
        assert "E570" in said and what in said and "with a batch of 16" in said.replace("for", "with")
    assert main(["plan", str(path), "--limit", "1GB"]) == 0
    assert main(["plan", str(path), "--limit", "large"]) == 2


def test_a_reordered_linear_keeps_a_quarter_of_what_a_batched_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = []
    for traffic in (10**9, -(10**9)):
        monkeypatch.setattr(forms_rule, "TRAFFIC", traffic)
        model = model_of("linear(64)", ("B", 64), ("B", S), MODES["full"])
        seen: dict[int, int] = {}

        def pack(value: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            out = model(x=draw(B, 64), c=draw(B, S))["o"]
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.append(sum(size for place, size in seen.items() if place not in parameters))
        assert out.requires_grad
    assert kept[1] > B * 64 * 64 * 8 and kept[0] <= kept[1] / 4


def test_the_page_is_what_the_compiler_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/hypernets.md").read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)
    spec, table = (next(body for name, body in found if name == kind) for kind in ("yaml", ""))
    (tmp_path / "spec.yaml").write_text(spec, "utf-8")
    from r2d2c.cli.main import main

    assert main(["plan", str(tmp_path / "spec.yaml"), "--batch", "512"]) == 0
    assert table in capsys.readouterr().out
