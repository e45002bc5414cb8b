"""The credit `goodness` against forward-forward written by hand, and what it does to everything around it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import r2d2c
from r2d2c.credit.record import CreditRule
from r2d2c.graph import Loss, Value
from r2d2c.printer import print_graph
from r2d2c.prove import prove
from r2d2c.sampling import random_batch
from tests.specs.test_ready_specs import agrees_with_emitted_python

D, H, C = 12, 6, 4
# The defaults of its options.
THETA, K, SCALE = 1.0, 10.0, 3.0
SPEC = f"""r2d2c: 1
model: layers
dims: {{D: {D}, H: {H}, C: {C}}}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> linear(H) |> relu
  b:
    behavior: h = a.h |> linear(H) |> tanh
  c:
    behavior: h = b.h |> linear(H) |> relu
  out:
    behavior: logits = linear(c.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
train:
  data: digits
  epochs: 1
  optimizer: adam(lr=3e-3)
  metrics:
    - accuracy(logits, y)
"""
TASKS = {"a": torch.relu, "b": torch.tanh, "c": torch.relu}


def compiled(credit="goodness", text=SPEC, double=True):
    model = r2d2c.compile(r2d2c.loads(text.replace("CREDIT", credit)))
    return model.double() if double else model


def batch_for(model, size=7, seed=3):
    return random_batch(model.graph, seed=seed, sizes={"B": size}, dtype=torch.float64)


def normal(h):
    return h / (h.square().flatten(1).mean(1) + 1e-6).sqrt().reshape(-1, *[1] * (h.dim() - 1))


def written(x, label, scale=SCALE):
    return torch.cat([label * scale, x[:, C:]], 1)


def layer(model, name, h):
    weight, bias = (model.get_parameter(f"{name}.h.linear.{part}") for part in ("weight", "bias"))
    return TASKS[name](F.linear(h, weight, bias))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_hand(model, batch, wrong, split, threshold=THETA, k=K):
    """The gradients of forward-forward with these wrong labels, by plain autograd."""
    model.zero_grad()
    x, y = batch["x"], batch["y"]
    one_hot = lambda labels: F.one_hot(labels, C).to(x.dtype)  # noqa: E731
    if split:
        half = len(x) // 2
        plus, minus = written(x[:half], one_hot(y[:half])), written(x[half:], one_hot(wrong[half:]))
    else:
        plus, minus = written(x, one_hot(y)), written(x, one_hot(wrong))
    total = 0
    for name in TASKS:
        plus, minus = layer(model, name, plus), layer(model, name, minus)
        costs = [
            F.softplus(k * (threshold - plus.square().mean(1))),
            F.softplus(k * (minus.square().mean(1) - threshold)),
        ]
        total = total + torch.cat(costs).mean() * 2
        plus, minus = normal(plus).detach(), normal(minus).detach()
    if hasattr(model, "out"):
        h = written(x, torch.full((len(x), C), 1 / C, dtype=x.dtype))
        for name in TASKS:
            h = normal(layer(model, name, h))
        logits = F.linear(h.detach(), model.out.logits.linear.weight, model.out.logits.linear.bias)
        total = total + F.cross_entropy(logits, y)
    total.backward()
    return gradients(model), total.detach()


@pytest.mark.parametrize("infer", ["classifier", "labels"])
@pytest.mark.parametrize("negatives", ["uniform", "hard"])
@pytest.mark.parametrize("split", ["false", "true"])
def test_gradients_are_those_of_forward_forward_by_hand(split, negatives, infer):
    model = compiled(f"goodness(split={split}, negatives={negatives}, infer={infer})")
    batch = batch_for(model)
    for _ in range(2):
        wrong = model.trace(**batch).values["goodness.streams.wrong"]
        model.zero_grad()
        step = model.learn(**batch)
        found = gradients(model)
        wanted, total = by_hand(model, batch, wrong, split == "true")
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(sum(step.losses.values()), total, rtol=1e-9, atol=1e-12)


def test_threshold_and_sharpness():
    model = compiled("goodness(0.5, sharpness=20, negatives=uniform)")
    batch = batch_for(model)
    wrong = model.trace(**batch).values["goodness.streams.wrong"]
    model.learn(**batch)
    found = gradients(model)
    for name, gradient in by_hand(model, batch, wrong, False, 0.5, 20.0)[0].items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_the_loss_of_a_split_batch_is_of_the_same_size():
    """So that an optimizer without Adam's scaling needs no other rate."""
    both, split = (compiled(f"goodness(negatives=uniform, split={s})") for s in ("false", "true"))
    batch = batch_for(both, 4000)
    one, other = both.losses(**batch), split.losses(**batch)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=2e-2, atol=0)


# -- inference


def test_the_classifier_reads_the_input_without_a_label():
    model = compiled()
    x = batch_for(model)["x"]
    h = written(x, torch.full((len(x), C), 1 / C, dtype=x.dtype))
    for name in TASKS:
        h = normal(layer(model, name, h))
    logits = F.linear(h, model.out.logits.linear.weight, model.out.logits.linear.bias)
    torch.testing.assert_close(model(x=x)["logits"], logits, rtol=1e-9, atol=1e-12)
    other = x.clone()
    other[:, :C] = 7.0
    torch.testing.assert_close(model(x=other)["logits"], logits)


def test_every_label_is_tried_and_all_layers_but_the_first_are_asked():
    model = compiled("goodness(infer=labels, label_scale=2)")
    x = batch_for(model)["x"]
    logits = torch.zeros(len(x), C, dtype=x.dtype)
    for label in range(C):
        h = written(x, F.one_hot(torch.full((len(x),), label), C).to(x.dtype), 2.0)
        for number, name in enumerate(TASKS):
            h = layer(model, name, h)
            logits[:, label] += h.square().mean(1) if number else 0
            h = normal(h)
    torch.testing.assert_close(model(x=x)["logits"], logits, rtol=1e-9, atol=1e-12)
    assert not any(name.startswith("out") for name, _ in model.named_parameters())
    # No loop over labels: each layer is one product.
    graph = model.graphs["inference"].graph
    assert sum(node.target is F.linear for node in graph.nodes if node.op == "call_function") == 3


def test_one_layer_alone_is_asked_itself():
    text = SPEC.replace("  b:\n    behavior: h = a.h |> linear(H) |> tanh\n", "")
    text = text.replace("  c:\n    behavior: h = b.h |> linear(H) |> relu\n", "").replace("c.h", "a.h")
    model = compiled("goodness(infer=labels)", text)
    x = batch_for(model)["x"]
    for label in range(C):
        h = layer(model, "a", written(x, F.one_hot(torch.full((len(x),), label), C).to(x.dtype)))
        torch.testing.assert_close(model(x=x)["logits"][:, label], h.square().mean(1))


@pytest.mark.parametrize("credit", ["goodness", "goodness(infer=labels)"])
def test_export_and_emit(credit, tmp_path):
    model = compiled(credit, double=False)
    assert r2d2c.export(model, tmp_path / "m.onnx").path.is_file()
    model.step = 3
    agrees_with_emitted_python(model, batch_for(model) | {"x": batch_for(model)["x"].float()})


# -- who learns from what


@pytest.mark.parametrize("credit", ["goodness", "goodness(split=true)", "goodness(infer=labels, split=true)"])
def test_wiring_is_each_task_by_its_own_goodness(credit):
    model = compiled(credit)
    wiring = model.wiring()
    assert set(wiring) == {"a.goodness", "b.goodness", "c.goodness"} | (
        {"out"} if hasattr(model, "out") else set()
    )
    for loss, row in wiring.items():
        task = loss.partition(".")[0]
        assert {name for name, entry in row.items() if entry} == {n for n in row if n.startswith(f"{task}.")}
    assert prove(model).ok


def test_each_task_is_a_visit_of_its_own():
    model = compiled()
    visits = [visit.losses for visit in model._training_graph.visits]
    assert sorted(visits) == [("a.goodness",), ("b.goodness",), ("c.goodness",), ("out",)]


def test_what_a_task_reads_is_of_one_size():
    model = compiled()
    batch = batch_for(model)
    batch["x"] *= 1000
    values = model.trace(**batch).values
    for name in TASKS:
        size = values[f"{name}.h.normal"].square().mean(1)
        torch.testing.assert_close(size, torch.ones_like(size), rtol=1e-3, atol=0)
    # A sample that excites nothing is no division by zero.
    with torch.no_grad():
        model.a.h.linear.weight.zero_()
        model.a.h.linear.bias.fill_(-1.0)
    model.learn(**batch)
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    assert model(x=batch["x"])["logits"].isfinite().all()


@pytest.mark.parametrize("credit", ["goodness", "goodness(infer=labels, negatives=uniform)"])
def test_the_backward_starts_at_h_with_the_gradient_of_the_loss(credit):
    """Autograd goes through the task's own layers only, and what it starts with is what it would have found itself."""
    model = compiled(credit)
    graph, batch = model._training_graph, batch_for(model)
    values = model.trace(**batch).values
    for name in TASKS:
        loss = graph.losses[f"{name}.goodness"]
        h, delta = loss.closed
        (vjp,) = (n for n in graph.body.nodes if n.op == "vjp" and n.inputs[0] == h)
        assert vjp.inputs == (h, delta) and {p.partition(".")[0] for p in vjp.attrs["params"]} == {name}
        sign = values["goodness.streams.sign"]
        leaf = values[f"{name}.h@streams"].detach().requires_grad_()
        cost = 2 * F.softplus(sign * (THETA - leaf.square().mean(1))).mean()
        torch.testing.assert_close(values[f"{name}.goodness.loss.delta"], torch.autograd.grad(cost, leaf)[0])
    assert "trains by the signal %a.goodness.loss.delta at %a.h" in print_graph(graph, model.spec.ops)


def test_another_rule_sees_a_gradient_in_closed_form():
    """`delta` at a value is all that teaches it, such a loss included, and it goes on teaching the task."""

    def adds(known, network):
        for edge in network.edges:
            h = edge.value
            small = edge.node("mean", edge.node("square", edge.stop(h) if known else h))
            delta = edge.node("div", edge.node("mul", edge.stop(h), 2.0 / H), edge.batch(h))
            loss = Loss(f"{edge.name}.small", small, owner=edge.link.source_task)
            network.loss(replace(loss, closed=(h, delta)) if known else loss)
            network.delta(h)

    found = []
    for known in (False, True):
        rule = CreditRule("small", "", "", finish=partial(adds, known))
        model = r2d2c.compile(r2d2c.loads(SPEC.replace("CREDIT", "small"), plugins=[rule])).double()
        assert {loss: e for loss, row in model.wiring().items() for e in row.values() if e}["a.small.small"]
        assert prove(model).ok
        model.learn(**batch_for(model))
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys() and len(found[0]) == 8
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


# -- negatives


def test_hard_negatives_are_never_the_label_and_follow_the_answer():
    model = compiled()
    with torch.no_grad():
        model.out.logits.linear.weight.zero_()
        model.out.logits.linear.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 9.0]))
    batch = batch_for(model, 6000)
    batch["y"][:3000] = 3
    wrong = model.trace(**batch).values["goodness.streams.wrong"]
    assert not (wrong == batch["y"]).any()
    found = torch.bincount(wrong[:3000], minlength=C) / 3000
    wanted = torch.softmax(torch.tensor([0.0, 1.0, 2.0, -torch.inf]), 0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)
    model.learn(**batch)
    assert not torch.equal(wrong, model.trace(**batch).values["goodness.streams.wrong"])


def test_uniform_negatives_are_every_wrong_label():
    model = compiled("goodness(negatives=uniform)")
    batch = batch_for(model, 6000)
    wrong = model.trace(**batch).values["goodness.streams.wrong"]
    counts = torch.bincount((wrong - batch["y"]) % C, minlength=C)
    assert counts[0] == 0 and (counts[1:] > 1800).all()


def test_losses_outside_of_learning_draw_nothing():
    for credit in ("goodness", "goodness(negatives=uniform)", "goodness(infer=labels)"):
        model = compiled(credit)
        batch = batch_for(model)
        one, other = model.losses(**batch), model.losses(**batch)
        assert one == other and "a.goodness" in one
    model = compiled("goodness(negatives=uniform)")
    batch = batch_for(model)
    wanted = by_hand(model, batch, (batch["y"] + 1) % C, False)[1]
    torch.testing.assert_close(sum(model.losses(**batch).values()), wanted)


@pytest.mark.parametrize("split", ["false", "true"])
@pytest.mark.parametrize("place", ["inputs", "targets"])
def test_declared_negative_data_takes_no_label(place, split):
    text = SPEC.replace(f"{place}:", f"{place}:\n  n: f32[B, D]")
    model = compiled(f"goodness(negatives=n, split={split})", text)
    batch = batch_for(model)
    model.learn(**batch)
    found = gradients(model)
    model.zero_grad()
    half = len(batch["x"]) // 2 if split == "true" else len(batch["x"])
    plus, minus = batch["x"][:half], batch["n"][half if split == "true" else 0 :]
    total = 0
    for name in TASKS:
        plus, minus = layer(model, name, plus), layer(model, name, minus)
        costs = [
            F.softplus(K * (THETA - plus.square().mean(1))),
            F.softplus(K * (minus.square().mean(1) - THETA)),
        ]
        total = total + torch.cat(costs).mean() * 2
        plus, minus = normal(plus).detach(), normal(minus).detach()
    total.backward()
    for name, gradient in gradients(model).items():
        if not name.startswith("out."):
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    # It is for learning: the model is used without it, on the input as it is.
    h = batch["x"]
    for name in TASKS:
        h = normal(layer(model, name, h))
    logits = F.linear(h, model.out.logits.linear.weight, model.out.logits.linear.bias)
    torch.testing.assert_close(model(x=batch["x"])["logits"], logits)


# -- other shapes, and other rules beside it

IMAGES = """r2d2c: 1
inputs:
  x: f32[B, 2, 3, 5]
  z: f32[B, 4]
targets:
  y: i64[B]
credit: CREDIT
tasks:
  a:
    behavior: h = x |> conv2d(4, 3, padding=1) |> relu
  b:
    behavior: h = a.h |> conv2d(3, 3) |> relu
  out:
    behavior: logits = linear(concat(flatten(a.h), flatten(b.h), linear(z, 3)), 6)
    distance: cross_entropy(logits, y)
outputs:
  logits: out.logits
"""


def test_a_label_takes_the_first_pixels_of_every_channel():
    model = compiled("goodness", IMAGES)
    batch = batch_for(model)
    values = model.trace(**batch).values
    streams, size = values["goodness.streams.x"], len(batch["y"])
    assert streams.shape == (2 * size, 2, 3, 5)
    labels = torch.cat([batch["y"], values["goodness.streams.wrong"]])
    for channel in range(2):
        pixels = streams[:, channel].flatten(1)
        assert torch.equal(pixels[:, :6], SCALE * F.one_hot(labels, 6).double())
        assert torch.equal(pixels[:size, 6:], batch["x"][:, channel].flatten(1)[:, 6:])
    h = F.conv2d(streams, model.a.h.conv2d.weight, model.a.h.conv2d.bias, padding=1).relu()
    torch.testing.assert_close(values["a.h.goodness@streams"], h.square().mean((1, 2, 3)))
    torch.testing.assert_close(values["a.h.normal@streams"], normal(h))
    assert prove(model).ok


def test_a_label_is_written_into_every_step():
    text = IMAGES.replace("f32[B, 2, 3, 5]", "f32[B, T, 7]").replace("conv2d(4, 3, padding=1)", "linear(4)")
    text = text.replace("conv2d(3, 3)", "linear(3)").replace("flatten(a.h)", "mean(a.h, 1)")
    model = compiled("goodness", text.replace("flatten(b.h)", "mean(b.h, 1)"))
    batch = batch_for(model)
    streams = model.trace(**batch).values["goodness.streams.x"]
    assert torch.equal(streams[: len(batch["y"]), 2, :6], SCALE * F.one_hot(batch["y"], 6).double())
    assert torch.equal(streams[: len(batch["y"]), :, 6:], batch["x"][:, :, 6:])


def test_labels_are_tried_on_images_and_beside_other_inputs(tmp_path):
    text = IMAGES.replace(
        "h = a.h |> conv2d(3, 3)", "h = a.h + unsqueeze(unsqueeze(z, 2), 3) |> conv2d(3, 3)"
    )
    text = text.replace(", linear(z, 3)", "")
    model = compiled("goodness(infer=labels, input=x)", text, double=False)
    batch = {n: v.float() if v.is_floating_point() else v for n, v in batch_for(model).items()}
    model.learn(**batch)
    found = model(x=batch["x"], z=batch["z"])["logits"]
    for label in range(6):
        pixels = batch["x"].flatten(2).clone()
        pixels[:, :, :6] = SCALE * F.one_hot(torch.tensor(label), 6)
        h = F.conv2d(
            pixels.view(-1, 2, 3, 5), model.a.h.conv2d.weight, model.a.h.conv2d.bias, padding=1
        ).relu()
        mixed = normal(h) + batch["z"][:, :, None, None]
        goodness = (
            F.conv2d(mixed, model.b.h.conv2d.weight, model.b.h.conv2d.bias).relu().square().mean((1, 2, 3))
        )
        torch.testing.assert_close(found[:, label], goodness)
    assert r2d2c.export(model, tmp_path / "m.onnx").path.is_file()
    assert prove(model).ok


def links(**credits):
    """The spec with a credit of its own on each link."""
    lines = [f"  {source}.h -> {target}: {{credit: {credits[source]}}}" for source, target in ("ab", "bc")]
    lines.append(f"  c.h -> out: {{credit: {credits['c']}}}")
    return SPEC.replace("credit: CREDIT", "\n".join(["links:", *lines]))


def test_tasks_above_with_another_credit_read_the_neutral_stream():
    model = compiled(text=links(a="goodness", b="goodness", c="backprop"))
    batch = batch_for(model)
    taught = {
        loss: {n.partition(".")[0] for n, e in row.items() if e} for loss, row in model.wiring().items()
    }
    assert taught == {"out": {"c", "out"}, "a.goodness": {"a"}, "b.goodness": {"b"}}
    model.learn(**batch)
    found = gradients(model)
    model.zero_grad()
    h = written(batch["x"], torch.full((len(batch["x"]), C), 1 / C, dtype=torch.float64))
    h = normal(layer(model, "b", normal(layer(model, "a", h)))).detach()
    logits = F.linear(layer(model, "c", h), model.out.logits.linear.weight, model.out.logits.linear.bias)
    F.cross_entropy(logits, batch["y"]).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
    assert prove(model).ok


def test_gradients_of_goodness_pass_links_with_backprop_below():
    model = compiled("backprop", links(a="backprop", b="goodness", c="goodness"))
    taught = {
        loss: {n.partition(".")[0] for n, e in row.items() if e} for loss, row in model.wiring().items()
    }
    assert taught == {"out": {"out"}, "b.goodness": {"a", "b"}, "c.goodness": {"c"}}
    assert prove(model).ok


def test_a_local_task_below_learns_from_its_own_loss():
    text = links(a="local", b="goodness", c="goodness")
    text = text.replace(
        "h = x |> linear(H) |> relu", "h = x |> linear(H) |> relu\n    distance: mse(h, one_hot(y, H))"
    )
    model = compiled(text=text.replace("mse(h, one_hot(y, H))", "mse(h[:, :4], one_hot(y, C))"))
    taught = {
        loss: {n.partition(".")[0] for n, e in row.items() if e} for loss, row in model.wiring().items()
    }
    assert taught == {"a": {"a"}, "out": {"out"}, "b.goodness": {"b"}, "c.goodness": {"c"}}
    assert prove(model).ok


@pytest.mark.parametrize("infer", ["classifier", "labels"])
def test_a_task_can_keep_its_own_distance_and_have_further_losses(infer):
    own = "linear(H) |> tanh\n    distance: mse(h[:, :4], one_hot(y, C))\n    keep: own"
    text = SPEC.replace("linear(H) |> tanh", own)
    text = text.replace("outputs:", "losses:\n  small:\n    value: mean(c.h^2)\n    weight: 0.1\noutputs:")
    model = compiled(f"goodness(infer={infer})", text)
    wiring = model.wiring()
    assert {n for n, e in wiring["b"].items() if e} == {"b.h.linear.weight", "b.h.linear.bias"}
    assert {n for n, e in wiring["small"].items() if e} == {"c.h.linear.weight", "c.h.linear.bias"}
    assert prove(model).ok
    # They are of the neutral stream: what the model computes when it is used.
    batch = batch_for(model)
    h = written(batch["x"], torch.full((len(batch["x"]), C), 1 / C, dtype=torch.float64))
    for name in TASKS:
        h = layer(model, name, h if name == "a" else normal(h))
    torch.testing.assert_close(model.losses(**batch)["small"], h.square().mean())


def test_a_distance_below_is_dropped_and_said_to_be():
    text = SPEC.replace("linear(H) |> tanh", "linear(H) |> tanh\n    distance: mse(h[:, :4], one_hot(y, C))")
    for infer in ("classifier", "labels"):
        assert not any((compiled(f"goodness(infer={infer})", text).wiring().get("b") or {}).values())


def test_a_graph_with_branches():
    text = SPEC.replace("h = b.h |>", "h = concat(a.h, b.h, x) |>").replace(
        "linear(c.h, C)", "linear(concat(a.h, c.h), C)"
    )
    for credit in ("goodness", "goodness(infer=labels)"):
        model = compiled(credit, text)
        assert prove(model).ok
        batch = batch_for(model)
        assert model(x=batch["x"])["logits"].shape == (7, C)


def test_tasks_with_blocks_inside():
    text = SPEC.replace(
        "tasks:", "blocks:\n  dense(n): |\n    v = in |> linear(n) |> tanh\n    return v\ntasks:", 1
    )
    text = text.replace("a.h |> linear(H) |> tanh", "a.h |> dense(H) |> dense(H)").replace("in |>", "x |>")
    text = text.replace("dense(n)", "dense(x, n)")
    for credit in ("goodness", "goodness(infer=labels)"):
        model = compiled(credit, text)
        assert prove(model).ok


def test_sizes_that_data_tells(tmp_path):
    text = SPEC.replace("{D: 12, H: 6, C: 4}", "{D: infer, H: 6, C: infer}").replace("CREDIT", "goodness")
    (tmp_path / "spec.yaml").write_text(text)
    run = r2d2c.train(tmp_path / "spec.yaml", out=tmp_path / "run", quiet=True)
    assert run.model.get_parameter("a.h.linear.weight").shape == (H, 64)
    assert "a.goodness" in run.model.wiring()


def test_it_is_printed_like_everything_else():
    spec = r2d2c.loads(SPEC.replace("CREDIT", "goodness"))
    text = print_graph(spec.graph, spec.ops)
    assert "%goodness.streams.wrong = hard_label(%logits, %y) : i64[B]" in text
    assert "%a.h.goodness = square(%a.h.rms) : f32[B]" in text
    assert (
        "%a.h.linear@streams = linear(%x, weight=@a.h.linear.weight, bias=@a.h.linear.bias) {out: 6} : f32[2*B, 6]"
        in text
    )
    assert spec.graph.types[Value("goodness.neutral")] == spec.graph.types[Value("model/x")]


# -- that it works


@pytest.mark.parametrize(
    ("credit", "epochs", "least"),
    [("goodness", 15, 0.92), ("goodness(infer=labels, label_scale=2)", 30, 0.87)],
)
def test_digits(credit, epochs, least, tmp_path):
    text = SPEC.replace("D: 12, H: 6, C: 4", "D: 64, H: 100, C: 10").replace("CREDIT", credit)
    text = text.replace("|> tanh", "|> relu").replace("linear(c.h, C)", "linear(concat(a.h, b.h, c.h), C)")
    text = text.replace("epochs: 1", f"epochs: {epochs}").replace(
        "|> linear(H)", "|> linear(H, init=kaiming)"
    )
    run = r2d2c.train(r2d2c.loads(text.replace("3e-3", "1e-2")), out=tmp_path / "run", quiet=True)
    assert run.test["metrics"]["accuracy(logits, y)"] > least


# -- the ops it draws with


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("wrong_label(y, 1)", "of one class, no label is wrong"),
        ("wrong_label(x, 4)", "classes are integers"),
        ("hard_label(logits[:, 0], y)", "`hard_label` needs 2 dims, `logits` is"),
        ("hard_label(y, y)", "`hard_label` needs 2 dims"),
        ("hard_label(logits, logits)", "`hard_label` needs 1 dims, `y` is"),
    ],
)
def test_labels_that_cannot_be_drawn(call, message):
    text = SPEC.replace("cross_entropy(logits, y)", f"mean(logits * cast({call}, f32)[:, none])")
    text = text.replace("[:, none]", "").replace("mean(logits *", "mean(logits[:, 0] *")
    with pytest.raises(r2d2c.CompileError, match=message):
        r2d2c.loads(text.replace("CREDIT", "backprop"))


def test_integers_of_other_sizes():
    text = SPEC.replace("y: i64[B]", "y: i32[B]").replace(
        "cross_entropy(logits, y)", "cross_entropy(logits, cast(y, i64))"
    )
    text = text.replace(
        "tasks:", "losses:\n  say:\n    value: mean(one_hot(y, C)) * mean(out.logits)\ntasks:"
    )
    for credit in ("goodness", "goodness(negatives=uniform)", "goodness(negatives=uniform, split=true)"):
        model = compiled(credit, text)
        batch = batch_for(model)
        assert batch["y"].dtype == torch.int32
        assert not (model.trace(**batch).values["goodness.streams.wrong"] == batch["y"]).any()
        assert model.learn(**batch).losses["a.goodness"].isfinite()
