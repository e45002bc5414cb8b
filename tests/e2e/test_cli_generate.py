"""`r2d2c generate` as a process: a text that is trained on, gone on with."""

import json
from pathlib import Path

from tests.e2e.command_line import ONE, r2d2c

SPEC = """\
r2d2c: 1
model: tale
dims: {V: infer, S: 16}
inputs: {x: "i64[B, T]"}
targets: {y: "i64[B, T]"}
loops:
  read(tokens):
    over: T
    stateful: true
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
    distance: cross_entropy(logits, y)
outputs: {logits: predict.logits}
train: {data: "text:tale.txt?length=16", epochs: 20, batch_size: 16, optimizer: adam(lr=0.01)}
"""


def test_a_text_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tale.yaml").write_text(SPEC)
    (tmp_path / "tale.txt").write_text("abc ä\n" * 500)
    done = r2d2c("train", "tale.yaml", "--out", "run", "-q", cwd=tmp_path, env=ONE)
    assert done.returncode == 0, done.stderr
    (tmp_path / "tale.txt").unlink()  # the run has its vocabulary
    words = ("generate", "run", "--prompt", "abc", "-n", "9")
    done = r2d2c(*words, "--temperature", "0", cwd=tmp_path, env=ONE)
    assert (done.stdout, done.stderr) == ("abc ä\nabc ä\n\n", "")
    done = r2d2c(*words, "--top-k", "1", "--seed", "3", "--format", "json", cwd=tmp_path, env=ONE)
    assert json.loads(done.stdout) == {
        "prompt": "abc",
        "text": " ä\nabc ä\n",
        "tokens": [1, 5, 0, 2, 3, 4, 1, 5, 0],
        "temperature": 1.0,
        "top_k": 1,
        "seed": 3,
    }
    packed = r2d2c("pack", "run", cwd=tmp_path, env=ONE)
    assert packed.returncode == 0, packed.stderr
    assert "r2d2c inspect run.r2d2c" in packed.stdout
    (tmp_path / "run").rename(tmp_path / "away")
    words = ("generate", "run.r2d2c", *words[2:])
    done = r2d2c(*words, "--temperature", "0", cwd=tmp_path, env=ONE)
    assert (done.stdout, done.stderr) == ("abc ä\nabc ä\n\n", "")
    (tmp_path / "away").rename(tmp_path / "run")
    done = r2d2c("generate", "run", "--prompt", "xyz", cwd=tmp_path, env=ONE)
    assert done.returncode == 1 and done.stdout == ""
    assert "error[E538]: the prompt has characters that the model has never read: `x` `y` `z`" in done.stderr
    done = r2d2c("generate", "run", "--prompt", "abc", "--length", "0", cwd=tmp_path, env=ONE)
    assert done.returncode == 2 and "--length" in done.stderr
    done = r2d2c("generate", "tale.yaml", "--prompt", "abc", cwd=tmp_path, env=ONE)
    assert done.returncode == 1 and "E523" in done.stderr
