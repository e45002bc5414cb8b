"""Every ready spec: checked, of a bounded length, proven, trained a few steps, emitted and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c.emit import emit_python
from r2d2c.prove import prove
from r2d2c.sampling import random_batch

FOLDER = Path(__file__).parents[2] / "specs"
SPECS = sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name != "std")
LIBRARY = sorted((FOLDER / "std").glob("*.yaml"))
# Standard blocks whose arguments are not a value, a target and widths.
MASK = "max(x, -1) > 0.5"
CALLS = {
    "placed": "placed(x, 5, 8)",
    "vector_rows": "vector_rows(x, 5, 8)",
    "patch_rows": "patch_rows(x, 2, 16, 8)",
    "field_rows": f"field_rows(x[..., 0], argmax(x, -1), {MASK}, 8, 8)",
    "row_attention": f"row_attention(x, {MASK}, 8)",
    "row_transformer": f"row_transformer(x, {MASK}, 8)",
    **{name: f"{name}(x, {MASK})" for name in ("present", "norm_rows", "pool_rows")},
    "elman": "elman(x, x, 8)",
    "gru": "gru(x, x, 8)",
    "lstm": "lstm(x, x, x, 8)[0]",
    "gru_gate": "gru_gate(x, tanh(x), 8)",
    "confidence_gate": "confidence_gate(x[:, 0], x[:, 0, :1], x[:, 1], exp(x[:, 0, 0]), exp(x[:, 1, 1]))[0]",
    "surprise_gate": "surprise_gate(x[:, 0], x[:, 1], abs(x[:, 0, 0]))",
    "left_over": "left_over(x, linear(x, 8))",
}
# The lines that a spec may have, by its folder.
LINES = {"r2d2": 60, "memory": 60, "growth": 60}


def agrees_with_emitted_python(model, batch):
    """The standalone file's outputs, losses and gradients, to 1e-6."""
    scope = {}
    exec(compile(emit_python(model), "emitted.py", "exec"), scope)
    other = next(c for c in scope.values() if isinstance(c, type) and issubclass(c, torch.nn.Module))()
    other.load_state_dict(model.state_dict())
    other.step = model._step
    model.zero_grad()
    step, (losses, _) = model.learn(**batch), other.learn(*batch.values())
    close = {"rtol": 1e-6, "atol": 1e-6}
    for name, loss in step.losses.items():
        torch.testing.assert_close(losses[name], loss, **close)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, parameter in mine.items():
        torch.testing.assert_close(theirs[name].grad, parameter.grad, **close)
    inputs = {name: value for name, value in batch.items() if name not in model.graph.targets}
    outputs = other(*inputs.values())
    for name, output in model(**inputs).items():
        torch.testing.assert_close(outputs[name], output, **close)


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_ready_spec(path, tmp_path):
    assert len(path.read_text("utf-8").splitlines()) <= LINES.get(path.parent.name, 40)
    spec = r2d2c.load(path)
    assert not [d for d in spec.diagnostics if d.severity == "warning"]
    model = r2d2c.compile(spec)
    assert prove(model).ok
    batch = random_batch(spec.graph, seed=1, sizes={"B": 32})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    weights = {name: loss.weight for name, loss in model._training_graph.losses.items()}
    for _ in range(30):
        optimizer.zero_grad()
        losses = model.learn(**batch).losses
        optimizer.step()
        totals.append(sum(float(v) * weights[n] for n, v in losses.items()))
    assert sum(totals[-3:]) < sum(totals[:3])
    agrees_with_emitted_python(model, batch)
    report = r2d2c.export(model, tmp_path / "m.onnx")
    assert report.path.is_file()


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_every_standard_block_compiles(path):
    """Each block of the standard library in a model of its own."""
    from r2d2c.diagnostics import Sink
    from r2d2c.driver import read
    from r2d2c.syntax.sections import validate
    from r2d2c.syntax.spec import parse_blocks
    from r2d2c.syntax.yaml_tree import compose

    sink = Sink()
    tree = compose(read(path), sink)
    document = validate(tree, sink, library=True)
    blocks = parse_blocks(document, sink)
    assert blocks and not sink.diagnostics
    for block in blocks:
        name = block.signature.name
        kind = "f32[B, 3, 8, 8]" if "conv" in name or "patch" in name else "f32[B, 5, 8]"
        others = [name for name, default in block.signature.parameters[1:] if default < 0]
        labelled = "y" in others  # a loss, not a part of a behavior
        given = ["h" if labelled else "x", *("y" if name == "y" else "8" for name in others)]
        call = CALLS.get(name) or f"{name}({', '.join(given)})"
        behavior, distance = ("relu(x)", call) if labelled else (call, "mean(h^2)")
        targets = "targets:\n  y: i64[B]\n" if labelled else ""
        text = f"r2d2c: 1\nimports: [std/{path.stem}]\ninputs:\n  x: {kind}\n{targets}tasks:\n  t:\n    behavior: h = {behavior}\n    distance: {distance}\noutputs:\n  h: t.h\n"
        model = r2d2c.compile(r2d2c.loads(text))
        assert model.learn(**random_batch(model.graph)).losses["t"].isfinite()
