"""Memories: what they are made of, where they are used, and how they are written."""

from __future__ import annotations

from r2d2c.diagnostics.entry import Entry

MEMORIES: tuple[Entry, ...] = (
    Entry(
        "E285",
        "a memory that is used outside of a loop",
        """\
A memory has slots for every sample, and a loop carries them from step to step: its body reads and writes them. What
stands outside of the loop, a block that the body uses included, gets what it needs as a value. A memory with
`shared: true` is a parameter, and may be read everywhere.

    behavior: |
      h = linear(flatten(m.state), 8)
    behavior: |
      r = read(x)
      h = linear(flatten(r.m.state), 8)      # the slots after the last step""",
    ),
    Entry(
        "E286",
        "a memory that is not used as one",
        """\
`write` gives the memory after the write, and the memory keeps its name: `m = write(m, …)` as a statement of its own.
All else that is done with a memory is done with a part of it: a field, a value of `each_slot`, or `m.age`, `m.count`,
`m.written`, and of one slot `m.newest.state` or `m.oldest.state`.

    new = write(m, state=h)
    out = linear(m, 8)
    m = write(m, state=h)
    out = linear(flatten(m.state), 8)""",
    ),
    Entry(
        "E287",
        "a write that does not fit the fields of its memory",
        """\
A write says what each field of the slot then holds, by its name.

    fields: {state: "f32[S]", surprise: f32}
    m = write(m, h)
    m = write(m, state=h, surprise=l2_each(h, g))""",
    ),
    Entry(
        "E288",
        "the number of slots is no number",
        """\
A memory has one slot or more, as many for every sample: a number, or the name of a dim.

    slots: 0
    slots: 8""",
    ),
    Entry(
        "E289",
        "a rule of a memory that cannot be read",
        """\
`replace` says which slot a write replaces: the one where an expression is lowest or highest (`argmin(…)`,
`argmax(…)`), the one that was written first (`oldest`, and `ring`, which is the same), or any one (`random`). The
expression reads the fields, `[B, K, …]`, and `age`, `i64[B, K]`. `when` says whether a sample writes at all: its names
are the values that would be written, and `replaced.FIELD` what the slot holds that they would replace. Slots that were
never written come first, whatever the rule.

    fields: {state: "f32[S]"}
    replace: argmin(surprise)
    fields: {state: "f32[S]", surprise: f32}
    replace: argmin(surprise * 0.9 ^ age)
    when: surprise > replaced.surprise""",
    ),
    Entry(
        "E290",
        "a credit that a memory cannot have",
        """\
What a memory stores is a constant for learning (`local`, the default), or learns from what later steps read of it
(`backprop`), which goes back through time.

    credit: truncate(4)
    credit: backprop""",
    ),
    Entry(
        "E291",
        "a memory that two loops use",
        """\
A loop carries its memory, so a second loop would carry another one of the same name. What one loop has stored gets
into another as a value: `r.m.state` are the slots after the last step. Parameters of `each_slot` can be shared by
putting it into a block.

    first(x):
      body: |
        m = write(m, state=x)
    second(x):
      body: |
        h = flatten(m.state)
    second(x, stored):
      body: |
        h = flatten(stored)""",
    ),
    Entry(
        "E292",
        "a memory that is never written",
        """\
All slots of a memory that no step writes are zeros for ever: a mistake that runs, and that no loss curve shows.

    body: |
      h = linear(flatten(m.state), 8)
    body: |
      m = write(m, state=h)
      h = linear(flatten(m.state), 8)""",
    ),
    Entry(
        "E293",
        "a field that cannot be",
        """\
A field is what one slot of one sample holds. The memory adds the axes of samples and slots, so the type has neither
`B` nor `T`. Every memory has `age`, `count`, `written`, `newest` and `oldest`, and the values of `each_slot` have
names of their own.

    fields: {state: "f32[B, S]", age: i64}
    fields: {state: "f32[S]", seen: i64}""",
    ),
    Entry(
        "E294",
        "a part that a memory does not have",
        """\
A memory has its fields, the values that `each_slot` computes, `age`, `count`, `written`, and one slot by `newest` or
`oldest`. Of one slot there are the fields, the values of `each_slot` and its `age`.

    h = flatten(m.representation)
    h = flatten(m.rep)
    last = m.newest.rep""",
    ),
    Entry(
        "E295",
        "a shared memory that is used like one of samples",
        """\
With `shared: true` there is one store for all samples. Its fields are parameters, so they are floating, and are
trained instead of written: no write, no `replace`, no `when`, no ages.

    concepts:
      slots: 16
      fields: {key: "f32[8]", seen: i64}
      replace: oldest
      shared: true
    concepts:
      slots: 16
      fields: {key: "f32[8]", value: "f32[8]"}
      shared: true""",
    ),
    Entry(
        "W478",
        "a memory, or a field of one, that is never read",
        """\
What is stored is read by no step, by no rule of the memory, and by nothing outside of the loop.

    fields: {state: "f32[S]", place: i64}
    each_slot: rep = linear(state, S)
    fields: {state: "f32[S]"}
    each_slot: rep = linear(state, S)""",
    ),
)
