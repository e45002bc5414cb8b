"""e-prop: carries whose gradient comes forward in time, and spike-timing plasticity."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

EPROP: tuple[Entry, ...] = (
    Entry(
        "E560",
        "`eprop` beside a carry that stores every step",
        """\
With `eprop` nothing is stored over the steps: the loop runs again, forward, with eligibility traces. A carry with the
credit `backprop`, the default, or `truncate(k)` needs all the steps at once. The spikes of neurons are best `local`:
what comes back to them at a step is the learning signal, and their past is in the traces.

    carry:
      v: {value: "f32[B, H] = zeros", credit: eprop}
      z: f32[B, H] = zeros
    carry:
      v: {value: "f32[B, H] = zeros", credit: eprop}
      z: {value: "f32[B, H] = zeros", credit: local}""",
    ),
    Entry(
        "E561",
        "`eprop` where samples halt",
        """\
Eligibility traces are kept for all samples from the first step to the last. In a loop with `until` samples stop at
different steps, and what they give is a mean over steps.

    until: sigmoid(linear(v, 1))[:, 0]
    max: 20
    repeat: 20""",
    ),
    Entry(
        "E562",
        "`eprop` of what is no float",
        """\
`eprop` is for the state of neurons, through which gradients go. A carry of integers or bools has none.

    n: {value: "i64[B, H] = zeros", credit: eprop}
    n: i64[B, H] = zeros""",
    ),
    Entry(
        "W563",
        "`eprop` of a carry without a state of its own",
        """\
An eligibility trace follows a neuron's own state: the next value of a carry must depend on the old one elementwise,
as in a leaky integrator. Where it depends on it only through layers, the trace is one step long, and `eprop` does what
`local` does.

    v = tanh(linear(concat(v, xt), H))
    v = 0.9 * v + 0.1 * tanh(linear(concat(v, xt), H))""",
    ),
    Entry(
        "W564",
        "parameters that learn from their own step alone, beside `eprop`",
        """\
A trace is kept for the weights of each `linear` whose result a neuron reads elementwise, and for the neuron's own
parameters. What is further away (a layer before that layer, a convolution, a layer whose result is cut in parts) has
none: it gets the gradient of its own step, and nothing of what the neuron remembers.

    gates = linear(xt, 2 * H)
    v = sigmoid(gates[:, :H]) * v + gates[:, H:]
    v = sigmoid(linear(xt, H)) * v + linear(xt, H)""",
    ),
    Entry(
        "E565",
        "spike-timing plasticity where nothing spikes",
        """\
`hebbian(variant=stdp)` changes the `linear` layers inside of a loop's step whose result goes to `lif`, by the times of
the spikes that come in and of those that it makes. Outside of a loop there are no times.

    h = linear(x, H)
    body: |
      v, z = lif(v, linear(xt, H))""",
    ),
    Entry(
        "E566",
        "a constant of spike-timing plasticity that is no time",
        """\
The options `plus`, `minus`, `tau_plus` and `tau_minus` of `hebbian` belong to the variant `stdp`; the other variants
know of no times.

    credit: hebbian(variant=oja, tau_plus=10)
    credit: hebbian(variant=stdp, tau_plus=10)""",
    ),
    Entry(
        "E567",
        "`eprop` in a file that needs only torch",
        """\
`compile --emit python` writes loops as plain Python that autograd records. e-prop runs them a second time, forward with
traces, by code that such a file does not have.

    r2d2c compile spec.yaml --emit python
    r2d2c compile spec.yaml --emit fx""",
    ),
)
