"""`python -m bench --quick`: everything runs, and what it writes has its schema. Nothing here depends on a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import r2d2c
from bench import report
from bench.__main__ import main
from bench.specs import HandChain, chain
from bench.table import BENCHMARKS

KEYS = {"name", "ours", "theirs", "ratio", "target", "held", "unit"}


def check_rows(path: Path, names: list[str]) -> None:
    rows = json.loads(path.read_text("utf-8"))
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row.keys() == KEYS
        assert row["unit"] in ("s", "B")
        assert row["ours"] > 0 and row["theirs"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
        assert row["held"] is (None if row["target"] is None else row["ratio"] <= row["target"])


def test_names_are_unique_and_functions_exist():
    names = [benchmark.name for benchmark in BENCHMARKS]
    assert len(set(names)) == len(names)
    assert all(callable(benchmark.load()) for benchmark in BENCHMARKS)


def test_quick_run_writes_results_and_table(tmp_path):
    assert main(["--quick", "--only", "mlp", "--only", "scale", "--output", str(tmp_path)]) == 0
    names = [b.name for b in BENCHMARKS if b.group in ("mlp", "scale")]
    check_rows(tmp_path / "results.json", names)
    table = (tmp_path / "README.md").read_text("utf-8")
    assert all(f"| {name} |" in table for name in names)
    assert str(Path.cwd()) not in table


@pytest.mark.slow
def test_quick_run_of_everything(tmp_path):
    command = [sys.executable, "-m", "bench", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check_rows(tmp_path / "results.json", [benchmark.name for benchmark in BENCHMARKS])


def test_committed_results_have_the_schema():
    folder = Path(report.__file__).parent
    check_rows(folder / "results.json", [benchmark.name for benchmark in BENCHMARKS])


def test_table_replaces_what_is_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_table("new", path)
    assert path.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"


def test_a_failure_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.__main__._run", lambda group, names, options: iter(()))
    assert main(["--quick", "--only", "onnx", "--output", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / "results.json").read_text())
    assert all(row["ratio"] is None and row["held"] is False for row in rows)


def test_the_hand_written_chain_has_our_gradients():
    model, hand = r2d2c.compile(r2d2c.loads(chain(16))), HandChain(16)
    pairs = [("t3.logits.linear", hand.top)]
    for k in range(3):
        pairs += [(f"t{k}.h.linear", hand.first[k]), (f"t{k}.h.linear_2", hand.second[k])]
        pairs += [(f"t{k}.r.linear", hand.codes[k])]
    mine = dict(model.named_parameters())
    assert len(mine) == 2 * len(pairs)
    for name, module in pairs:
        module.load_state_dict({part: mine[f"{name}.{part}"].detach() for part in ("weight", "bias")})
    x, y = torch.randn(8, 16), torch.randint(0, 10, (8,))
    model.learn(x=x, y=y)
    hand.learn(x, y)
    for name, module in pairs:
        torch.testing.assert_close(mine[f"{name}.weight"].grad, module.weight.grad)
        torch.testing.assert_close(mine[f"{name}.bias"].grad, module.bias.grad)
