"""Optimizers by parameter, clipping, weight decay and accumulation, held against plain torch in float64."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import r2d2c
from r2d2c.diagnostics import CompileError, Sink
from r2d2c.graph import Visit
from r2d2c.model import Model
from r2d2c.train.chunks import learn_pass
from r2d2c.train.clipping import Clip
from r2d2c.train.groups import GROUP, Kind, plan_groups
from r2d2c.train.optimizers import OPTIMIZERS
from r2d2c.train.settings import Settings, read_settings
from r2d2c.train.stepper import Stepper

SPECS = Path(__file__).parents[2] / "specs"

HEAD = """\
r2d2c: 1
model: stepped
dims: {D: 12, H: 10, C: 4}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  encode:
    behavior: h = x |> linear(H) |> layer_norm |> tanh |> linear(H)
    representative: r = one_hot(y, C) |> linear(H) |> tanh
    distance: mse(h, r)
  classify:
    behavior: logits = linear(encode.h, C)
    distance: cross_entropy(logits, y)
links:
  encode.h -> classify: {credit: local, feed: encode.r}
outputs:
  logits: classify.logits
train:
  data: digits
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(train: str, head: str = HEAD) -> Settings | list[str]:
    sink = Sink()
    lines = "".join(f"  {line}\n" for line in train.splitlines())
    found = read_settings(r2d2c.loads(head + lines), sink)
    return found if found is not None else [str(d).removeprefix("<spec>:") for d in sink.diagnostics]


def sound(train: str, head: str = HEAD) -> Settings:
    found = settings_of(train, head)
    assert isinstance(found, Settings), found
    return found


def stepper_of(model: Model, settings: Settings, **more: Any) -> Stepper:
    stepper = Stepper(
        dict(model.named_parameters()),
        model._training_graph.visits,
        settings.record,
        settings.optimizer,
        sometimes=model._sometimes,
        rates=settings.rates,
        others=settings.others,
        undecayed=settings.undecayed,
        clips=settings.clips,
        accumulate=settings.accumulate,
        **more,
    )
    stepper.zero_grad()
    return stepper


def batches(
    count: int, size: int = 8, width: int = 12, classes: int = 4
) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        x = torch.rand(size, width, generator=generator, dtype=torch.float64)
        yield {"x": x, "y": torch.randint(classes, (size,), generator=generator)}


def trained(train: str, count: int = 5, head: str = HEAD, **more: Any) -> Model:
    model = r2d2c.compile(r2d2c.loads(head)).double()
    stepper = stepper_of(model, sound(train, head), **more)
    for batch in batches(count):
        stepper.begin(8)
        learn_pass(model, stepper, batch)
        stepper.after_batch()
    return model


def by_hand(groups: Mapping[str, tuple[Any, dict[str, Any]]], count: int = 5, clip: Any = None) -> Model:
    """groups: torch's class and its arguments, by the beginning of names. clip: called before every step."""
    model = r2d2c.compile(r2d2c.loads(HEAD)).double()
    named = dict(model.named_parameters())
    made = []
    for key, (cls, arguments) in groups.items():
        parts = [p for n, p in named.items() if n.startswith(tuple(key.split("|")))]
        assert parts, key
        made.append(cls(parts, **arguments))
    for batch in batches(count):
        model.zero_grad()
        model.learn(**batch)
        if clip is not None:
            clip(named)
        for one in made:
            one.step()
    return model


def assert_same(one: Model, two: Model, bound: float = 1e-12) -> None:
    theirs = dict(two.named_parameters())
    for name, tensor in one.named_parameters():
        assert torch.allclose(tensor, theirs[name], rtol=bound, atol=bound), name


# -- optimizers by parameter


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
def test_two_optimizers_are_those_of_torch(record: Any) -> None:
    cls = getattr(torch.optim, record.torch_class)
    key = "encode.h.linear.weight" if record.matrices_only else "encode"
    found = trained(f"optimizer: sgd(lr=0.1, momentum=0.9)\noptimizers:\n  {key}: {record.name}(lr=0.01)")
    rest = (
        "classify|encode.r|encode.h.linear.bias|encode.h.linear_2|encode.h.layer"
        if record.matrices_only
        else "classify"
    )
    sgd = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    # muon computes in bf16 on the way.
    assert_same(
        found, by_hand({key: (cls, {"lr": 0.01}), rest: sgd}), 1e-6 if record.matrices_only else 1e-12
    )


def test_the_longest_name_counts_and_kinds_come_last() -> None:
    settings = sound(
        "optimizer: adam\noptimizers:\n  encode: sgd(lr=0.1)\n  vectors: adagrad\n  encode.r: adamw\n"
        '  matrices: rprop\n  "*.r.linear.bias": adamax'
    )
    chosen = {name: choice.record.name for name, choice in settings.others.items()}
    assert chosen == {
        "encode.h.linear.weight": "sgd",
        "encode.h.linear.bias": "sgd",
        "encode.h.layer_norm.weight": "sgd",
        "encode.h.layer_norm.bias": "sgd",
        "encode.h.linear_2.weight": "sgd",
        "encode.h.linear_2.bias": "sgd",
        "encode.r.linear.weight": "adamw",
        "encode.r.linear.bias": "adamax",
        "classify.logits.linear.weight": "rprop",
        "classify.logits.linear.bias": "adagrad",
    }
    assert settings.choice("classify.logits.linear.bias").key == "vectors"


def test_a_representative_and_an_auxiliary_module_have_their_own() -> None:
    head = HEAD.replace("{credit: local, feed: encode.r}", "{credit: synthetic}").replace(
        "    distance: mse(h, r)\n", "    distance: mse(h, r)\n    keep: own\n"
    )
    settings = sound('optimizers:\n  encode.r: sgd(lr=0.1)\n  "*.synthetic": adagrad(lr=1)', head)
    chosen = {name: choice.record.name for name, choice in settings.others.items()}
    assert {name for name, word in chosen.items() if word == "sgd"} == {
        "encode.r.linear.weight",
        "encode.r.linear.bias",
    }
    assert {name for name, word in chosen.items() if word == "adagrad"} == {
        "encode.synthetic.predictor.weight",
        "encode.synthetic.predictor.bias",
    }


def test_many_small_tasks_of_one_kind_make_one_step() -> None:
    model = r2d2c.compile(r2d2c.load(SPECS / "tasks" / "four_task_chain.yaml"))
    head = (SPECS / "tasks" / "four_task_chain.yaml").read_text().partition("train:")[0] + "train:\n"
    assert len(stepper_of(model, sound("optimizer: adamw", head)).groups) == 1
    settings = sound(
        "optimizer: adamw\noptimizers: {t2: sgd(lr=0.1), t3: sgd(lr=0.1)}\nno_decay: [bias]", head
    )
    # Two keys are two optimizers, even where they say the same; of sgd nothing decays.
    assert len(stepper_of(model, settings).groups) == 4


@pytest.mark.parametrize(
    "parts", ["cosine", "exponential(gamma=0.5)", "warmup(epochs=1) |> linear", "multistep(at=1)"]
)
def test_one_schedule_moves_all_rates(parts: str) -> None:
    text = f"optimizer: sgd(lr=0.1)\noptimizers:\n  encode: adam(lr=0.02)\nrates:\n  encode.r: 0.5\nschedule: {parts}"
    settings = sound(text)
    model = r2d2c.compile(r2d2c.loads(HEAD)).double()
    stepper = stepper_of(model, settings)
    stepper.set_schedule(settings.schedule, 3, 2)
    seen = []
    for batch in batches(6):
        (rate,) = stepper.rates.values()
        assert stepper.rate is not None
        assert rate == pytest.approx(stepper.rate / 5)
        for group, step in zip(stepper.groups, stepper._steps, strict=True):
            base = rate if group.kind.optimizer else stepper.rate
            assert step.optimizer.param_groups[0]["lr"] == pytest.approx(base * group.factor)  # type: ignore[union-attr]
        seen.append(rate)
        learn_pass(model, stepper, batch)
        stepper.after_batch()
    assert len(set(seen)) > 1


# -- clipping


def norms(*keys: str, bound: float) -> Any:
    def clip(named: dict[str, torch.Tensor]) -> None:
        for key in keys:
            parts = [p for n, p in named.items() if n.startswith(tuple(key.split("|")))]
            torch.nn.utils.clip_grad_norm_(parts, bound)

    return clip


SGD = {"encode|classify": (torch.optim.SGD, {"lr": 0.1})}


def test_a_norm_of_all_gradients() -> None:
    wanted = by_hand(SGD, clip=norms("encode|classify", bound=0.05))
    assert_same(trained("optimizer: sgd(lr=0.1)\nclip: 0.05"), wanted)
    assert_same(trained("optimizer: sgd(lr=0.1)\nclip: norm(1/20)"), wanted)
    assert_same(trained("optimizer: sgd(lr=0.1)\nclip: 1e9"), by_hand(SGD))
    assert not torch.equal(
        wanted.get_parameter("encode.h.linear.bias"), by_hand(SGD).get_parameter("encode.h.linear.bias")
    )


def test_norms_of_some() -> None:
    wanted = by_hand(SGD, clip=norms("encode.r", "encode.h", bound=0.03))
    assert_same(trained("optimizer: sgd(lr=0.1)\nclip:\n  encode.r: 0.03\n  encode: 0.03"), wanted)
    assert_same(
        trained(
            "optimizer: sgd(lr=0.1)\nrates: {encode.h.linear_2: 1.0000000001}\nclip: {encode: 0.03, encode.r: 0.03}"
        ),
        wanted,
        1e-9,
    )


def test_values() -> None:
    def clip(named: dict[str, torch.Tensor]) -> None:
        torch.nn.utils.clip_grad_value_([p for n, p in named.items() if n.startswith("classify")], 0.01)

    assert_same(trained("optimizer: sgd(lr=0.1)\nclip: {classify: value(0.01)}"), by_hand(SGD, clip=clip))


def test_what_has_no_rate_does_not_count() -> None:
    def clip(named: dict[str, torch.Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_([p for n, p in named.items() if n.startswith("encode")], 0.01)

    wanted = by_hand({"encode": (torch.optim.SGD, {"lr": 0.1})}, clip=clip)
    assert_same(trained("optimizer: sgd(lr=0.1)\nclip: 0.01\nrates: {classify: 0}"), wanted)


def test_what_is_clipped_together_is_stepped_together() -> None:
    visits = [Visit(f"v{k}", (), (), (), (f"a{k}", f"b{k}")) for k in range(4)]
    sizes = {f"{letter}{k}": GROUP for letter in "ab" for k in range(4)}
    both = Clip("b", "norm", 1.0)
    kinds = {"b0": Kind(clip=both), "b2": Kind(2.0, clip=both), "b1": Kind(clip=Clip("c", "value", 1.0))}
    made = {name: group.visit for group in plan_groups(visits, sizes, kinds=kinds) for name in group.names}
    assert made == {"a0": 0, "a1": 1, "b1": 1, "a2": 2, "b0": 2, "b2": 2, "a3": 3, "b3": 3}
    last = {name: Kind(clip=Clip("", "norm", 1.0)) for name in sizes}
    assert {group.visit for group in plan_groups(visits, sizes, kinds=last)} == {3}


# -- weight decay


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ("[bias]", ("encode.h.linear.bias", "encode.h.layer_norm.bias", "encode.h.linear_2.bias", "encode.r.linear.bias", "classify.logits.linear.bias")),
        ("norm", ("encode.h.layer_norm.weight", "encode.h.layer_norm.bias")),
        ("[vectors]", ("encode.h.linear.bias", "encode.h.layer_norm", "encode.h.linear_2.bias", "encode.r.linear.bias", "classify.logits.linear.bias")),
        ('["*.r", classify.logits.linear.weight]', ("encode.r", "classify.logits.linear.weight")),
    ],
)  # fmt: skip
def test_groups_without_decay(keys: str, names: tuple[str, ...]) -> None:
    found = trained(f"optimizer: adamw(lr=0.01, weight_decay=0.5)\nno_decay: {keys}")
    model = r2d2c.compile(r2d2c.loads(HEAD)).double()
    named = dict(model.named_parameters())
    without = [p for n, p in named.items() if n.startswith(names)]
    others = [p for n, p in named.items() if not n.startswith(names)]
    groups = [{"params": without, "weight_decay": 0.0}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.5)
    for batch in batches(5):
        optimizer.zero_grad()
        model.learn(**batch)
        optimizer.step()
    assert_same(found, model)


# -- accumulation

RULES = ["backprop", "local", "feedback", "direct", "synthetic", "target(noise=0)", "alternate"]
CHAIN = """\
r2d2c: 1
model: chain
dims: {D: 12, H: 10, C: 4}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  one:
    behavior: h = x |> linear(H) |> tanh
    representative: r = one_hot(y, C) |> linear(H)
    distance: mse(h, r)
  two:
    behavior: h = one.h |> linear(H) |> tanh
    representative: r = one_hot(y, C) |> linear(H)
    distance: mse(h, r)
  three:
    behavior: logits = linear(two.h, C)
    distance: cross_entropy(logits, y)
outputs:
  logits: three.logits
"""


def learned(credit: str, train: str, sizes: list[int]) -> Model:
    """After one pass over the same 32 samples, in batches of these sizes."""
    model = r2d2c.compile(r2d2c.loads(CHAIN + f"credit: {credit}\n")).double()
    stepper = stepper_of(model, sound(train, CHAIN + f"credit: {credit}\ntrain:\n"))
    (whole,) = batches(1, 32)
    first = 0
    for _ in range(2):
        first = 0
        for size in sizes:
            batch = {name: tensor[first : first + size] for name, tensor in whole.items()}
            stepper.begin(size)
            learn_pass(model, stepper, batch)
            first += size
        stepper.flush()
    assert first == 32
    return model


@pytest.mark.parametrize(
    "rest", ["", "\nclip: 0.01", "\nclip: {one: 0.01, three: value(0.001)}\nno_decay: [bias]"]
)
@pytest.mark.parametrize("credit", RULES)
def test_four_batches_are_one_of_four_times_the_size(credit: str, rest: str) -> None:
    step = f"optimizer: adamw(lr=0.01){rest}"
    wanted = learned(credit, step, [32])
    assert_same(learned(credit, f"{step}\naccumulate: 4", [8, 8, 8, 8]), wanted)
    # Another number of samples in the last batch, and fewer batches than there might be.
    assert_same(learned(credit, f"{step}\naccumulate: 3", [12, 12, 8]), wanted)
    assert_same(learned(credit, f"{step}\naccumulate: 9", [16, 10, 6]), wanted)
    once = learned(credit, step, [8, 8, 8, 8])
    assert not torch.allclose(
        once.get_parameter("one.h.linear.weight"), wanted.get_parameter("one.h.linear.weight")
    )


def test_what_learns_now_and_then_gets_the_mean_of_those_times() -> None:
    credit = "synthetic(every=2)"
    found = learned(credit, "optimizer: sgd(lr=0.1)\naccumulate: 4", [8, 8, 8, 8])
    model = r2d2c.compile(r2d2c.loads(CHAIN + f"credit: {credit}\n")).double()
    (whole,) = batches(1, 32)
    named = dict(model.named_parameters())
    assert model._sometimes
    for _ in range(2):
        total: dict[str, torch.Tensor] = {}
        times: dict[str, int] = {}
        for first in range(0, 32, 8):
            model.zero_grad()
            model.learn(**{name: tensor[first : first + 8] for name, tensor in whole.items()})
            for name, p in named.items():
                if p.grad is not None:
                    total[name] = total.get(name, torch.zeros_like(p)) + p.grad
                    times[name] = times.get(name, 0) + 1
        assert set(times.values()) == {2, 4}
        with torch.no_grad():
            for name, gradient in total.items():
                named[name] -= 0.1 * gradient / times[name]
    assert_same(found, model)


def test_batches_of_one_step_have_one_rate() -> None:
    """As with a batch of four times the size, whose schedule has a fourth of the steps."""
    step = "optimizer: sgd(lr=0.1)\nschedule: cosine"
    models = []
    for train, size, count in ((step, 32, 3), (f"{step}\naccumulate: 4", 8, 12)):
        settings = sound(train)
        model = r2d2c.compile(r2d2c.loads(HEAD)).double()
        stepper = stepper_of(model, settings)
        stepper.set_schedule(settings.schedule, 1, count)
        (whole,) = batches(1, 96)
        for first in range(0, 96, size):
            stepper.begin(size)
            learn_pass(model, stepper, {name: tensor[first : first + size] for name, tensor in whole.items()})
            stepper.after_batch()
        models.append(model)
    assert_same(*models)


# -- mistakes


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("optimizers: {encod: sgd}", "22:16: error[E660]: no parameter's name is or begins with `encod`"),
        ("optimizers: {encode: sdg}", "22:24: error[E530]: there is no optimizer `sdg`"),
        ("optimizers: {encode: sgd(mu=1)}", "22:31: error[E531]: optimizer `sgd` has no argument `mu`"),
        ("optimizers: {encode: sgd |> adam}", "22:31: error[E540]: one optimizer trains the parameters under `encode`, this is a pipe of several"),
        ("optimizer: muon", "22:14: error[E534]: optimizer `muon` trains only matrices, and `encode.h.linear.bias` is none"),
        ("optimizers: {encode: muon}", "22:24: error[E534]: optimizer `muon` trains only matrices, and `encode.h.linear.bias` is none"),
        ("optimizer: lbfgs", "22:14: error[E530]: there is no optimizer `lbfgs`"),
        ("clip: 0", "22:9: error[E662]: the bound of `clip` must be a number above 0, `norm(…)` or `value(…)` of one, not `0`"),
        ("clip: -1", "22:9: error[E662]: the bound of `clip` must be a number above 0, `norm(…)` or `value(…)` of one, not `-1`"),
        ("clip: {encode: big}", "22:18: error[E662]: the bound of `encode` must be a number above 0, `norm(…)` or `value(…)` of one, not `big`"),
        ("clip: most(3)", "22:9: error[E662]: the bound of `clip` must be a number above 0, `norm(…)` or `value(…)` of one, not `most(3)`"),
        ("clip: {classfy: 1}", "22:10: error[E660]: no parameter's name is or begins with `classfy`"),
        ("no_decay: [biases]", "22:14: error[E660]: no parameter's name is or begins with `biases`"),
        ("schedule: one_cycle(pct_start=2)", "22:13: error[E532]: argument `pct_start` of schedule `one_cycle` must lie in 0 … 1, not 2"),
        ("schedule: plateau(factor=1)", "22:13: error[E532]: argument `factor` of schedule `plateau` must lie between 0 and 1, not 1"),
        ("schedule: multistep(at=(0, 3))", "22:13: error[E532]: argument `at` of schedule `multistep` must be an epoch or a tuple of epochs, from 1 on, not (0, 3)"),
    ],
)  # fmt: skip
def test_mistakes(train: str, message: str) -> None:
    assert settings_of(train) == [message]


@pytest.mark.parametrize(
    ("train", "code"),
    [
        ("accumulate: 0", "E156"),
        ("accumulate: many", "E152"),
        ("early_stop: 0", "E156"),
        ("precision: f8", "E156"),
        ("clip:", "E160"),
        ("clip: [1]", "E152"),
        ("optimizers: adam", "E152"),
        ("no_decay:", "E160"),
    ],
)
def test_values_of_the_wrong_kind(train: str, code: str) -> None:
    with pytest.raises(CompileError) as caught:
        r2d2c.loads(f"{HEAD}  {train}\n")
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert caught.value.diagnostics[0].span is not None


def test_adafactor_cannot_follow_growth() -> None:
    sink = Sink()
    grows = SPECS / "growth" / "digits.yaml"
    assert read_settings(r2d2c.load(grows, settings=["train.optimizer=adafactor"]), sink) is None
    assert [f"{d.code}: {d.message}" for d in sink.diagnostics] == [
        "E661: optimizer `adafactor` has no state for each entry of `pixels.numbers`, which follows the growth of `pixels`"
    ]
    settings = [
        "train.optimizer=adafactor",
        "train.optimizers={pixels: adam, parts: adam, see: adam, classify: adam}",
    ]
    assert read_settings(r2d2c.load(grows, settings=settings), sink) is not None


def test_decay_of_nothing_is_a_warning() -> None:
    sink = Sink()
    assert read_settings(r2d2c.loads(HEAD + "  no_decay: [bias]\n"), sink) is not None
    assert [d.code for d in sink.diagnostics] == ["W663"]
    sink = Sink()
    read_settings(r2d2c.loads(HEAD + "  optimizer: adamw\n  no_decay: [bias]\n"), sink)
    assert not sink.diagnostics


def test_a_near_key_and_the_kinds_are_named() -> None:
    sink = Sink()
    read_settings(r2d2c.loads(HEAD + "  optimizers: {matrixes: adam}\n"), sink)
    (found,) = sink.diagnostics
    assert found.fix is not None and found.fix.replacement == "matrices"
    assert found.notes[-1] == "or a kind of parameters: `matrices`, `vectors`, `bias`, `norm`"


def test_settings_may_be_set() -> None:
    checked = r2d2c.loads(
        HEAD, settings=["train.optimizers.encode.r=sgd(lr=0.5)", "train.clip.encode=2", "train.accumulate=3"]
    )
    found = read_settings(checked, Sink())
    assert found is not None
    assert found.choice("encode.r.linear.bias").rate == 0.5
    assert found.clips["encode.h.linear.bias"] == Clip("encode", "norm", 2.0)
    assert found.accumulate == 3
