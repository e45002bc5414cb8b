"""`r2d2c.generate`: what a model says after a prompt, against loops written by hand; and what cannot generate."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

import r2d2c
from r2d2c import CompileError, Diagnostic
from r2d2c.train.data.text_file import BYTES, UNKNOWN
from r2d2c.train.data.vocabulary import Vocabulary
from r2d2c.train.generate import Sampling, open_reader

RECURRENT = """
r2d2c: 1
model: tale
dims: {V: infer, S: 12}
inputs: {x: "i64[B, T]"}
targets: {y: "i64[B, T]"}
loops:
  read(tokens):
    over: T
    each: {t: tokens}
    carry: {h: "f32[B, S] = zeros"}
    body: |
      h = tanh(embedding(t, V, S) + linear(h, S))
      out = linear(h, V)
tasks:
  predict:
    behavior: |
      r = read(x)
      logits = r.out.steps
      likely = softmax(logits)
    distance: cross_entropy(logits, y)
outputs: {logits: predict.logits}
train: {epochs: 1, optimizer: adam(lr=0.01)}
"""
STATEFUL = RECURRENT.replace("    over: T", "    over: T\n    stateful: true")
# Each step sees those before it. How many there are is fixed, so that short sequences must be filled up.
WINDOWS = """
r2d2c: 1
model: windows
dims: {N: 6, V: 7, S: 8}
inputs: {x: "i64[B, N]"}
targets: {y: "i64[B, N]"}
tasks:
  predict:
    behavior: |
      h = embedding(x, V, S)
      seen = attention(h, h, h, mask=causal_mask(N))
      logits = linear(seen + h, V)
    distance: cross_entropy(logits, y)
outputs: {logits: predict.logits}
"""
TEXT = "the cat sat on the mat. " * 120


def refused(what: object, prompt: object = (1, 2), **options: object) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        r2d2c.generate(what, prompt, **options)  # type: ignore[arg-type]
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def compiled(text: str, *settings: str) -> r2d2c.Model:
    return r2d2c.compile(r2d2c.loads(text, settings=settings))


@pytest.fixture(scope="module")
def tale(tmp_path_factory: pytest.TempPathFactory) -> r2d2c.Run:
    """A run on a text that says the same all over."""
    folder = tmp_path_factory.mktemp("tale")
    (folder / "spec.yaml").write_text(RECURRENT)
    (folder / "t.txt").write_text(TEXT)
    run: r2d2c.Run = r2d2c.train(
        folder / "spec.yaml",
        data=f"text:{folder}/t.txt?length=16",
        epochs=25,
        out=folder / "run",
        threads=1,
        batch_size=16,
    )
    return run


def by_hand(run: r2d2c.Run, prompt: str, length: int, window: int) -> str:
    """The likeliest characters, one after the other."""
    classes = run.origin.classes
    assert classes is not None
    text = prompt
    for _ in range(length):
        x = torch.tensor([[classes.index(c) for c in text[-window:]]])
        with torch.no_grad():
            logits = run.model(x=x)["logits"][0, -1]
        text += classes[int(logits[:-1].argmax())]
    return text[len(prompt) :]


def test_it_says_what_it_has_read(tale: r2d2c.Run) -> None:
    said = r2d2c.generate(tale, "the cat", length=40, temperature=0)
    assert isinstance(said, str) and len(said) == 40
    assert said == by_hand(tale, "the cat", 40, 16), (
        "never more than the 16 characters of a sample in training"
    )
    assert r2d2c.generate(tale.folder, "the cat", length=40, temperature=0) == said


def test_predictions_are_texts_too(tale: r2d2c.Run) -> None:
    found = r2d2c.predict(tale, split="test")
    classes, text = tale.origin.classes or (), found.classes["logits"][0]
    assert len(text) == 16 and [classes.index(c) for c in text] == found["logits"][0].argmax(-1).tolist()
    assert f",{text}," in found.to_csv().splitlines()[1]


def test_the_seed_tells_what_is_drawn(tale: r2d2c.Run) -> None:
    drawn = [r2d2c.generate(tale, "the", length=60, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert UNKNOWN not in "".join(map(str, drawn))
    one = r2d2c.generate(tale, "the", length=30, temperature=1.5, top_k=1)
    assert one == r2d2c.generate(tale, "the", length=30, temperature=0)


def test_what_is_drawn_has_the_probabilities_of_the_model() -> None:
    scores = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    for temperature, k in ((1.0, None), (0.5, 3), (2.0, 2)):
        sampling = Sampling(temperature, k)
        found = Counter(sampling.draw(scores, generator) for _ in range(20_000))
        kept = sorted(range(4), key=lambda n: -float(scores[n]))[: k or 4]
        weights = {n: math.exp(float(scores[n]) / temperature) for n in kept}
        assert set(found) == set(kept)
        for n in kept:
            assert abs(found[n] / 20_000 - weights[n] / sum(weights.values())) < 0.015


def test_probabilities_are_as_good_as_logits(tale: r2d2c.Run, tmp_path: Path) -> None:
    made = [
        r2d2c.compile(tale.spec),
        compiled(RECURRENT.replace("predict.logits}", "predict.likely}"), "dims.V=12"),
    ]
    for model in made:
        model.load_state_dict(tale.model.state_dict())
    logits, shares = (r2d2c.generate(model, [3, 1], length=50, seed=4) for model in made)
    assert logits == shares and isinstance(logits, list) and len(logits) == 50


def test_a_model_with_fixed_t_is_filled_up_behind() -> None:
    model = compiled(WINDOWS)
    known = [1, 2]
    for _ in range(9):
        seen = known[-6:]
        with torch.no_grad():
            logits = model(x=torch.tensor([seen + [5] * (6 - len(seen))]))["logits"]
        known.append(int(logits[0, len(seen) - 1].argmax()))
    assert r2d2c.generate(model, [1, 2], length=9, temperature=0) == known[2:]


def test_a_model_that_looks_ahead_cannot_generate() -> None:
    diagnostic = refused(compiled(WINDOWS.replace(", mask=causal_mask(N)", "")))
    assert (
        diagnostic.code == "E537"
        and "`logits` at a step changes with the tokens after it" in diagnostic.message
    )


def test_a_range_of_lengths_is_kept_to() -> None:
    text = WINDOWS.replace("N: 6", "N: 3..5")
    reader = open_reader(compiled(text))
    assert (reader.least, reader.window) == (3, 5)
    assert len(r2d2c.generate(compiled(text), [1], length=8)) == 8


def test_what_a_state_goes_on_from_is_all_that_was_read() -> None:
    model, whole = compiled(STATEFUL, "dims.V=9"), compiled(RECURRENT, "dims.V=9")
    whole.load_state_dict(model.state_dict())
    reader = open_reader(model)
    assert reader.state and not open_reader(whole).state
    seen: list[int] = []
    forward = model.forward
    model.forward = lambda **given: seen.append(given["x"].shape[1]) or forward(**given)  # type: ignore[method-assign, func-returns-value]
    prompt = [1, 5, 3, 8, 0]
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 7}):
        assert r2d2c.generate(model, prompt, length=30, **options) == r2d2c.generate(
            whole, prompt, length=30, **options
        )
    assert seen == [5, *[1] * 29] * 2, "one token at a time"


def test_a_model_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(RECURRENT)
    (tmp_path / "t.txt").write_bytes("çà ".encode() * 300)
    run = r2d2c.train(
        tmp_path / "spec.yaml",
        data=f"text:{tmp_path}/t.txt?length=10&unit=byte",
        epochs=12,
        out=tmp_path / "run",
        threads=1,
        batch_size=8,
    )
    assert r2d2c.generate(run, "ç", length=10, temperature=0) == "à çà ç"
    assert list(Vocabulary(BYTES).pieces([0xC3, 0xA9, 0xC3])) == ["", "é", "", "\ufffd"]


def test_bad_prompts_and_options(tale: r2d2c.Run) -> None:
    diagnostic = refused(tale, "the CAT\n")
    assert (
        str(diagnostic)
        == "error[E538]: the prompt has characters that the model has never read: `C` `A` `T` `\\n`"
    )
    assert diagnostic.notes == ("it knows ` ` `.` `a` `c` `e` `h` `m` `n` `o` `s` `t`",)
    assert refused(tale, "").message == "the prompt is empty: there is nothing to go on with"
    assert refused(tale, [3, 12]).message == "the prompt has the token 12, the model has 0 to 11"
    assert refused(tale, "the", length=0).message == "`length` is at least 1, not 0"
    assert refused(tale, "the", top_k=0).message == "`top_k` is at least 1, not 0"
    assert refused(tale, "the", temperature=-1).message == "a temperature is at least 0 and finite, not -1"
    model = compiled(WINDOWS)
    assert refused(model, "1 b").message == "`b` is not the number of a token"
    assert refused(model, "1, 7").message == "the prompt has the token 7, the model has 0 to 6"
    assert len(r2d2c.generate(model, "1, 6", length=3)) == 3


OTHERS = {
    "its inputs are `x` f32[B, N=6], and one input of tokens i64[B, T] is needed": {
        'x: "i64[B, N]"': 'x: "f32[B, N]"',
        "embedding(x, V, S)": "linear(unsqueeze(x, 2), S)",
    },
    "its inputs are `x` i64[B, N=6], `k` i64[B, N=6], and one input of": {
        'x: "i64[B, N]"': 'x: "i64[B, N]", k: "i64[B, N]"',
        "seen + h": "seen + h + embedding(k, V, S)",
    },
    "its outputs are `h` f32[B, 7], and one with a number for every next token": {
        "      logits =": "      every =",
        "h, V)": "h, V)\n      logits = every[:, -1]",
        'y: "i64[B, N]"': 'y: "i64[B]"',
        "logits: predict": "h: predict",
    },
    "`b` `a` may all be what is drawn from": {"logits: predict": "b: predict.seen, a: predict"},
    "`logits` has 9 tokens, the input `x` takes only 7": {"linear(seen + h, V)": "linear(seen + h, V + 2)"},
}


@pytest.mark.parametrize("message", OTHERS)
def test_a_model_of_another_kind(message: str) -> None:
    text = WINDOWS
    for old, new in OTHERS[message].items():
        assert old in text
        text = text.replace(old, new)
    diagnostic = refused(compiled(text))
    assert diagnostic.code == "E537" and message in diagnostic.message


def test_an_output_by_its_name() -> None:
    text = WINDOWS.replace("logits: predict.logits", "a: predict.logits, h: predict.seen, b: predict.logits")
    model = compiled(text)
    assert refused(model, output="c").message == "the model cannot generate: it has no output `c`"
    named = [r2d2c.generate(model, [1], output=name, length=5, temperature=0) for name in ("a", "b")]
    assert named[0] == named[1]
