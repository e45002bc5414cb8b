"""Going on with a sequence: models that can, prompts and sampling."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

GENERATE: tuple[Entry, ...] = (
    Entry(
        "E537",
        "model cannot generate",
        """\
`r2d2c generate` goes on with a sequence of tokens: the model has one input of tokens, `i64[B, T]`, and an output with a
number for every token at every step, `f32[B, T, V]`, from what is known at that step. V is no more than the tokens
that the input may have. A model that looks at what comes after a step cannot be used, as nothing comes yet.

    inputs:
      x: i64[B, T]
    outputs:
      logits: predict.logits      # f32[B, T, V], for the token after each""",
    ),
    Entry(
        "E538",
        "bad prompt or sampling",
        """\
A prompt is what the model reads before it goes on, so it is not empty. For a model of characters it is a text of
characters that were in its training data; for another model it is ids, as in `--prompt "0 3 0"`. A temperature is at
least 0, `top_k` and `length` are at least 1.

    r2d2c generate runs/tale --prompt "In the" --temperature 0.8 --top-k 20""",
    ),
)
