"""Diagnostics 6xx: export and model files."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

EXPORT: tuple[Entry, ...] = (
    Entry(
        "E601",
        "the ONNX model differs from PyTorch",
        """\
Every export is run in ONNX Runtime beside the PyTorch module, on random inputs of several batch sizes. An
output differed by more than the tolerance, which is relative to the largest number in that output. No file
was written. The message names the output, the batch size and the difference.

A difference just above the tolerance is rounding: a deep model may need `tolerance=1e-3`. A large one is a
mistake in the ONNX form of an op; a plug-in's op is the first to look at.""",
    ),
    Entry(
        "E602",
        "the ONNX file exists",
        """\
An export never replaces a file unless it is told to. Choose another name, or:

    r2d2c.export(model, "m.onnx", overwrite=True)""",
    ),
    Entry(
        "E603",
        "the ONNX model is not valid",
        """\
onnx.checker, or its shape inference, refused the model that was written. If a plug-in's op is in it, its
`onnx` function makes nodes whose result is not of the type that its shape rule says. Else it is a mistake in
r2d2c: please report it with the spec.""",
    ),
    Entry(
        "E604",
        "ONNX Runtime cannot run the model",
        """\
The model is valid ONNX, but ONNX Runtime has no implementation of an op for its dtype, or refuses a shape. On
the CPU it has few kernels for bfloat16 and some are missing for float64 and small integers.

    r2d2c.export(model.float(), "m.onnx")      # export in float32""",
    ),
    Entry(
        "E605",
        "an op without ONNX form needs onnxscript",
        """\
A plug-in's op has no ONNX form of its own. torch.onnx.export can write such an op, and needs the package
onnxscript for it, which is not installed.

    pip install onnxscript

Or give the op's record an `onnx` function: `lambda o, a: o("Tanh", a.x)`.""",
    ),
    Entry(
        "E606",
        "an op cannot be written as ONNX",
        """\
The op has no ONNX form of its own, and torch.onnx.export, asked for this op alone, failed. The message has
its reason. Give the op's record an `onnx` function: `lambda o, a: o("Tanh", a.x)`.""",
    ),
    Entry(
        "E607",
        "too large for one ONNX file",
        """\
An ONNX file is one protobuf message, which holds less than 2 GiB. Weights in files beside it are not written
by r2d2c: export in a smaller dtype, or split the model into specs of their own.""",
    ),
    Entry(
        "E608",
        "the model runs at none of the sizes tried",
        """\
An export is verified on random inputs of several sizes, and the PyTorch module itself failed on all of them:
a window that is longer than the sequence, say. Give batch sizes at which it runs:

    r2d2c.export(model, "m.onnx", batch_sizes=(16, 32))""",
    ),
    Entry(
        "E609",
        "no place to write the ONNX file",
        "The path of the ONNX file is a folder, or lies in a folder that does not exist.",
    ),
    Entry(
        "E610",
        "the model file cannot be read",
        "The file is missing, is a folder, or may not be read.",
    ),
    Entry(
        "E611",
        "not an ONNX file",
        """\
The file is empty, cut off, damaged, or of another format: checkpoints (`.safetensors`), PyTorch files (`.pt`)
and runs are not ONNX. `r2d2c export RUN -o m.onnx` makes one from a run.""",
    ),
    Entry(
        "E612",
        "ONNX has no op for a dtype",
        """\
ONNX defines an op for some dtypes only: in opset 20 there is no convolution, sine or sort of bfloat16. The
message names the op and the place in the spec that needs it.

    r2d2c.export(model.float(), "m.onnx")      # export in float32""",
    ),
    Entry(
        "E613",
        "an op that the emitted Python cannot hold",
        """`compile --emit python` writes a file that needs only torch. An op made from an nn.Module class of a plug-in runs
that class's own code, which the file would have to contain. Write the op as a record whose `lower` calls torch,
or use the model from r2d2c.

    model = r2d2c.compile("spec.yaml", plugins=["mine.py"])""",
    ),
    Entry(
        "E614",
        "there is no one step to export",
        """\
`export --step` writes what a model makes of one element of a sequence, and of the state that the element before left.
So its loops over the sequence have `stateful: true` and are over the same length, which the data has; and every input
and output is either one per element, with one axis of that length, or has nothing to do with it.

    loops:
      read(x):
        over: T
        each: {xt: x}
        stateful: true
        carry:
          h: f32[B, 8] = zeros
        body: h = tanh(linear(xt, 8) + linear(h, 8))""",
    ),
    Entry(
        "E615",
        "one step after another is not the whole sequence",
        """\
A file of one step is compared with PyTorch on whole sequences: its steps by hand, each with the state of the one
before. What is around the loop gets one element at a time, so anything there that looks at several gives something
else: the mean over all steps, a convolution along the sequence, a normalization over it. Compute it in the loop, with
a carry, or export the whole sequence.

    behavior: y = mean(read(x).h.steps, axes=1)   # of one step: that step alone""",
    ),
)
