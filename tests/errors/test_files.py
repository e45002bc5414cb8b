"""Mistakes in files and on the command line: the exact text a user reads of each."""

import os
from pathlib import Path

import pytest

from r2d2c import CompileError, load, loads
from r2d2c.diagnostics.render import render_text

SPEC = """\
r2d2c: 1
inputs:
  x: f32[B, 4]
tasks:
  fit:
    behavior: p = linear(x, 4)
    distance: mse(p, x)
outputs:
  p: fit.p
"""


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(path: str, *settings: str, plugins: tuple[str, ...] = ()) -> str:
    with pytest.raises(CompileError) as error:
        load(path, settings=settings, plugins=plugins)
    return "\n".join(render_text(d) for d in error.value.diagnostics) + "\n"


def test_a_file_that_is_not_there() -> None:
    Path("spec.yaml").write_text(SPEC)
    assert (
        said("spce.yaml") == "error[E001]: there is no file `spce.yaml`\n = help: did you mean `spec.yaml`?\n"
    )


def test_a_file_that_cannot_be_read() -> None:
    Path("spec.yaml").write_text(SPEC)
    Path("spec.yaml").chmod(0)
    if os.access("spec.yaml", os.R_OK):  # root reads everything
        assert said("spec.yaml/x") == "error[E002]: `spec.yaml/x` cannot be read: not a directory\n"
    else:
        assert said("spec.yaml") == "error[E002]: `spec.yaml` cannot be read: permission denied\n"


def test_a_folder() -> None:
    Path("specs").mkdir()
    Path("specs/two.yaml").write_text(SPEC)
    assert (
        said("specs") == "error[E003]: `specs` is a folder, not a spec\n = help: there is `two.yaml` in it\n"
    )


def test_latin_1() -> None:
    Path("spec.yaml").write_bytes("r2d2c: 1\ndoc: schön\n".encode("latin-1"))
    assert said("spec.yaml") == (
        "error[E004]: `spec.yaml` is not UTF-8: byte 0xf6 at offset 17\n"
        " --> spec.yaml:2:9\n"
        "  |\n"
        "2 | doc: sch�n\n"
        "  |         ^ this byte\n"
        "  |\n"
        "  = help: save the file as UTF-8\n"
    )


def test_utf_16() -> None:
    Path("spec.yaml").write_bytes(SPEC.encode("utf-16"))
    assert (
        said("spec.yaml")
        == "error[E004]: `spec.yaml` is in UTF-16, not UTF-8\n = help: save the file as UTF-8\n"
    )


def test_an_empty_file() -> None:
    Path("spec.yaml").write_bytes(b"")
    assert said("spec.yaml") == (
        "error[E005]: `spec.yaml` is empty\n = help: `r2d2c new` writes a spec to start from\n"
    )


def test_a_binary_file() -> None:
    Path("spec.yaml").write_bytes(b"r2d2c: 1\0")
    assert said("spec.yaml") == (
        "error[E006]: `spec.yaml` is a binary file: it has a NUL byte here\n"
        " --> spec.yaml:1:9\n"
        "  |\n"
        "1 | r2d2c: 1�\n"
        "  |         ^\n"
    )


def test_a_control_character() -> None:
    Path("spec.yaml").write_text("r2d2c: 1\ndoc: a\x07b\n")
    assert said("spec.yaml") == (
        "error[E025]: the character U+0007 cannot stand in a spec\n"
        " --> spec.yaml:2:7\n"
        "  |\n"
        "2 | doc: a�b\n"
        "  |       ^\n"
    )


def test_a_huge_file() -> None:
    Path("spec.yaml").write_bytes(b"#" * (16 * 1024 * 1024 + 1))
    assert said("spec.yaml") == "error[E007]: `spec.yaml` is larger than 16 MiB, so it is no spec\n"


def test_deep_nesting() -> None:
    Path("spec.yaml").write_text("r2d2c: 1\na: " + "[" * 3000)
    text = said("spec.yaml")
    assert text.startswith("error[E019]: this is nested more than 100 levels deep\n --> spec.yaml:2:103\n")


def test_an_alias_bomb() -> None:
    lines = ["r2d2c: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    Path("spec.yaml").write_text("\n".join(lines))
    text = said("spec.yaml")
    assert text.startswith("error[E020]: ")
    assert "spec.yaml:6:" in text


def test_settings() -> None:
    Path("spec.yaml").write_text(SPEC)
    assert said("spec.yaml", "dims.H") == (
        "error[E026]: expected `key=value`\n --> --set dims.H:1:1\n  |\n1 | dims.H\n  | ^^^^^^\n  |\n"
        "  = help: for example `--set dims.H=128`\n"
    )
    assert said("spec.yaml", "task.fit.weight=2") == (
        "error[E027]: the spec has no key `task` to set something in\n --> --set task.fit.weight=2:1:1\n  |\n"
        "1 | task.fit.weight=2\n  | ^^^^\n  |\n  = help: did you mean `tasks`?\n"
    )


def test_imports(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.yaml").write_text("r2d2c: 1\n")
    (inside / "a.yaml").write_text("r2d2c: 1\nimports:\n  - b.yaml\n")
    (inside / "b.yaml").write_text("r2d2c: 1\nimports:\n  - a.yaml\n")
    lines = ["r2d2c: 1", "imports:", "  - std/lairs", "  - missing.yaml", "  - ../secret.yaml", "  - a.yaml"]
    (inside / "spec.yaml").write_text("\n".join(lines) + "\n" + SPEC.removeprefix("r2d2c: 1\n"))
    text = said("inside/spec.yaml")
    assert "error[E240]: the standard library has no `std/lairs`\n --> inside/spec.yaml:3:5\n" in text
    assert "error[E240]: there is no file `missing.yaml` to import\n --> inside/spec.yaml:4:5\n" in text
    assert "error[E242]: `../secret.yaml` is outside the spec's folder\n --> inside/spec.yaml:5:5\n" in text
    assert "error[E241]: imports go in a circle: a.yaml → b.yaml → a.yaml\n --> b.yaml:3:5\n" in text


def test_plugins() -> None:
    Path("spec.yaml").write_text(SPEC)
    Path("mine.py").write_text("import not_there\n")
    assert said("spec.yaml", plugins=("their.py",)) == "error[E250]: there is no plug-in file their.py\n"
    assert said("spec.yaml", plugins=("mine.py",)) == (
        "error[E250]: the plug-in mine.py does not load: ModuleNotFoundError: No module named 'not_there'\n"
    )


def test_credit_rules_of_plugins() -> None:
    """What goes wrong in a rule of the user's own is said at her line."""
    second = "  two:\n    behavior: q = linear(fit.p, 4)\n    distance: mse(q, x)\noutputs:\n  q: two.q\n"
    Path("spec.yaml").write_text(SPEC.replace("outputs:\n", second) + "credit: bad\n")
    head = "from r2d2c.credit.record import CreditRule\n\n\ndef signal(edge):\n"
    rule = "\n\nCREDIT_RULES = (CreditRule('bad', 'doc', '0', signal=signal, check=getattr(signal, 'check', None)),)\n"
    link = (
        " ::: spec.yaml:14:9\n   |\n14 | credit: bad\n   |         --- the credit of `fit -> two` is `bad`\n"
    )

    def with_rule(body: str) -> str:
        name = f"mine_{len(body)}.py"
        Path(name).write_text(head + body + rule)
        return said("spec.yaml", plugins=(name,)).replace(name, "mine.py")

    assert with_rule("    return edge.h\n") == (
        "error[E251]: `signal` of the credit rule `bad` raises AttributeError: 'AttachedEdge' object has no attribute 'h'\n"
        "  --> mine.py:5:5\n   |\n 5 |     return edge.h\n   |     ^^^^^^^^^^^^^\n " + link
    )
    assert with_rule("    edge.stop(edge.value)\n") == (
        "error[E252]: `signal` of the credit rule `bad` gives nothing; it has to return a value\n"
        "  --> mine.py:4:1\n   |\n 4 | def signal(edge):\n   | ^^^^^^^^^^^^^^^^^\n " + link
    )
    assert with_rule(
        "    return edge.value\n\n\nsignal.check = lambda link: link.refuse('too early', 'wait')\n"
    ) == (
        "error[E253]: the credit `bad` cannot stand here: too early\n"
        "  --> spec.yaml:14:9\n   |\n14 | credit: bad\n   |         ^^^\n   |\n   = help: wait\n"
    )


def test_a_warning_is_allowed_where_it_stands() -> None:
    text = SPEC.replace(
        "p = linear(x, 4)", "|\n      q = relu(x)  # r2d2c: allow(W450)\n      p = linear(x, 4)"
    )
    assert loads(text).diagnostics == ()
    assert [d.code for d in loads(text.replace("  # r2d2c: allow(W450)", "")).diagnostics] == ["W450"]
