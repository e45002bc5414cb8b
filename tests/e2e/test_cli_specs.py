"""The commands that write, check and explain specs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command_line import BROKEN, TWO_TASKS, r2d2c

TEMPLATES = ("two_tasks", "mlp", "conv", "chain")


@pytest.mark.parametrize("template", TEMPLATES)
def test_new_writes_a_spec_that_is_fine(template: str, tmp_path: Path) -> None:
    done = r2d2c("new", "my net.yaml", "--template", template, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "wrote my net.yaml\nnext: r2d2c check my net.yaml\n")
    text = (tmp_path / "my net.yaml").read_text()
    assert "model: my_net" in text and "THIS_FILE" not in text and "NAME" not in text
    checked = r2d2c("check", "my net.yaml", "-W", "error", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("my net.yaml: ok. ")
    formatted = r2d2c("fmt", "--check", "my net.yaml", cwd=tmp_path)
    assert formatted.returncode == 0, formatted.stdout
    wired = r2d2c("wiring", "my net.yaml", "--prove", cwd=tmp_path)
    assert wired.returncode == 0, wired.stderr


def test_new_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    done = r2d2c("new", path)
    assert done.returncode == 2
    assert f"{path} exists, and is left as it is" in done.stderr
    assert path.read_text() == "precious"


def test_new_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = r2d2c("new", tmp_path / "no" / "mine.yaml")
    assert done.returncode == 2
    assert "does not exist" in done.stderr


def test_check_says_what_is_in_a_spec() -> None:
    done = r2d2c("check", TWO_TASKS)
    assert done.returncode == 0
    assert done.stdout == f"{TWO_TASKS}: ok. 2 tasks, 2 losses, 17,930 parameters, 10 ops\n"


def test_check_many_specs_says_all(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(BROKEN)
    done = r2d2c("check", broken, tmp_path / "missing.yaml", TWO_TASKS)
    assert done.returncode == 1
    assert "error[E104]" in done.stderr and "error[E001]" in done.stderr
    assert "two_tasks.yaml: ok." in done.stdout


def test_check_json(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(BROKEN)
    done = r2d2c("check", broken, TWO_TASKS, "--format", "json")
    assert done.returncode == 1
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] is False
    first, second = found["specs"]
    assert (first["ok"], first["counts"], second["ok"]) == (False, None, True)
    assert second["counts"] == {"tasks": 2, "losses": 2, "parameters": 17930, "ops": 10}
    (mistake,) = first["diagnostics"]
    assert (mistake["code"], mistake["line"], mistake["column"]) == ("E104", 9, 32)


def test_check_with_settings() -> None:
    assert "6,922 parameters" in r2d2c("check", TWO_TASKS, "--set", "dims.H=32").stdout
    wrong = r2d2c("check", TWO_TASKS, "--set", "dims.H=x+")
    assert wrong.returncode == 1
    assert "--set dims.H=x+" in wrong.stderr


def test_a_warning_is_an_error_on_request(tmp_path: Path) -> None:
    unused = ("--set", "dims.Q=3")
    warned = r2d2c("check", TWO_TASKS, *unused)
    assert warned.returncode == 0
    assert "warning[W452]" in warned.stderr
    refused = r2d2c("check", TWO_TASKS, *unused, "-W", "error")
    assert refused.returncode == 1
    assert "error[W452]" in refused.stderr
    assert refused.stdout == ""


def test_fmt(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    untidy = TWO_TASKS.read_text().replace("x |> linear(2*H)", "x|>linear( 2*H )  # wide") + "\n\n\n"
    path.write_text(untidy)
    path.chmod(0o640)
    check = r2d2c("fmt", "--check", path)
    assert check.returncode == 1
    assert f"{path}: would change" in check.stderr
    diff = r2d2c("fmt", "--diff", path)
    assert diff.returncode == 0
    assert "\n-    behavior: h = x|>linear( 2*H )  # wide" in diff.stdout
    assert path.read_text() == untidy
    done = r2d2c("fmt", path)
    assert (done.returncode, done.stdout) == (0, f"{path}: formatted\n")
    assert "# wide" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert r2d2c("fmt", path).stdout == f"{path}: as it should be\n"
    assert r2d2c("fmt", "--check", path).returncode == 0


def test_fmt_of_what_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("a: [1\nb: 2")
    done = r2d2c("fmt", path, TWO_TASKS, "--check")
    assert done.returncode == 1
    assert "error[E010]" in done.stderr
    assert path.read_text() == "a: [1\nb: 2"


def test_explain() -> None:
    listed = r2d2c("explain")
    assert listed.returncode == 0
    assert "E001  the file does not exist" in listed.stdout
    for code in ("E001", "e001", "[E001]"):
        one = r2d2c("explain", code)
        assert one.stdout.startswith("E001: the file does not exist\n\nThere is no file")
    assert "did you mean `E001`?" in r2d2c("explain", "W001").stderr


def test_ops() -> None:
    listed = r2d2c("ops").stdout
    assert "conv2d(x, out, kernel, stride=1" in listed
    one = r2d2c("ops", "linear").stdout
    assert one.startswith("linear(x, out, weight=, bias=)\n")
    assert "linear(x, 5, bias=false)" in one and "In the family `linear`" in one
    family = r2d2c("ops", "distances").stdout
    assert "mse(" in family and "conv2d(" not in family
    found = json.loads(r2d2c("ops", "linear", "--format", "json").stdout)
    assert (found["name"], [a["name"] for a in found["arguments"]]) == (
        "linear",
        ["x", "out", "weight", "bias"],
    )
    assert "linear" in {op["name"] for op in json.loads(r2d2c("ops", "--format", "json").stdout)["linear"]}


def test_credit_rules() -> None:
    text = r2d2c("ops", "--credit").stdout
    assert "backprop\n" in text and "local\n" in text
    rules = {rule["name"]: rule for rule in json.loads(r2d2c("ops", "--credit", "--format", "json").stdout)}
    assert rules["local"]["takes_feed"] and not rules["backprop"]["takes_feed"]
