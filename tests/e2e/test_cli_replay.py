"""`r2d2c replay` as a process: op graphs that grew in a run, rebuilt from its log."""

import json
import re
from pathlib import Path

from r2d2c.train.checkpoint import load_checkpoint, save_checkpoint
from tests.e2e.command_line import ONE, r2d2c, write_products

SPEC = """\
r2d2c: 1
model: sums
inputs: {x: "f32[B, 3]"}
targets: {y: "i64[B]"}
op_graphs:
  layer:
    ops: [add, mul, gauss]
    capacity: 9
    nodes:
      product: x[0] * x[1]
      near: gauss(product, p)
    grow: {every: epochs(1), add: 2, prune: 1}
tasks:
  classify:
    behavior: logits = linear(layer(x), 2)
    distance: cross_entropy(logits, y)
outputs: {logits: classify.logits}
train: {data: "csv:data.csv?target=y", epochs: 3, batch_size: 16, optimizer: adam(lr=0.05)}
"""


def test_a_run_is_rebuilt_from_its_log(tmp_path: Path) -> None:
    write_products(tmp_path, 40)
    (tmp_path / "sums.yaml").write_text(SPEC)
    done = r2d2c("train", "sums.yaml", "--out", "run", cwd=tmp_path, env=ONE)
    assert done.returncode == 0, done.stderr
    assert [line.split("layer ")[1].split("  ")[0] for line in done.stdout.splitlines() if "layer " in line][
        :3
    ] == ["2 ops", "3 ops", "4 ops"]
    assert "growth of layer: 2 rounds, 4 ops added, 2 pruned" in (tmp_path / "run/summary.txt").read_text()

    done = r2d2c("replay", "run", cwd=tmp_path, env=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("layer: 4 ops after 2 rounds of growth\n")
    assert done.stdout.endswith("this is the op graph of the last checkpoint\n")
    done = r2d2c("replay", "run", "--at", "0", cwd=tmp_path, env=ONE)
    assert done.stdout == (
        "layer: 2 ops after 0 rounds of growth\n\n  product = x0 * x1\n  near = gauss(product, p)\n"
    )
    done = r2d2c("replay", "run", "--format", "json", cwd=tmp_path, env=ONE)
    found = json.loads(done.stdout)["op_graphs"]["layer"]
    assert (found["rounds"], found["equal"], found["differences"]) == (2, True, [])
    assert (found["inputs"], found["capacity"], len(found["nodes"])) == (3, 9, 4)
    assert {node["round"] for node in found["nodes"]} <= {0, 1, 2}

    whole = r2d2c("replay", "run", cwd=tmp_path, env=ONE).stdout
    graph = r2d2c("graph", "run", "--as", "json", cwd=tmp_path, env=ONE).stdout
    assert any("gauss" in line for line in graph.splitlines())
    assert r2d2c("pack", "run", cwd=tmp_path, env=ONE).returncode == 0
    (tmp_path / "run").rename(tmp_path / "away")
    done = r2d2c("replay", "run.r2d2c", cwd=tmp_path, env=ONE)
    assert (done.returncode, done.stdout, done.stderr) == (0, whole, "")
    done = r2d2c("graph", "run.r2d2c", "--as", "json", cwd=tmp_path, env=ONE)
    assert (done.returncode, done.stdout) == (0, graph)
    done = r2d2c("export", "run.r2d2c", "-o", "sums.onnx", cwd=tmp_path, env=ONE)
    assert done.returncode == 0 and (tmp_path / "sums.onnx").stat().st_size > 100, done.stderr


def test_a_log_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """A checkpoint that is of another op graph than its log: each node that differs is named."""
    (tmp_path / "data.csv").write_text(
        "a,b,c,y\n" + "".join(f"{k},{k * k % 7},{-k},{k % 2}\n" for k in range(20))
    )
    (tmp_path / "sums.yaml").write_text(SPEC)
    done = r2d2c("train", "sums.yaml", "--out", "run", "-q", cwd=tmp_path, env=ONE)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    saved = load_checkpoint(path)
    saved.model["layer.born"][saved.model["layer.kind"] >= 0] += 1
    save_checkpoint(path, saved)
    done = r2d2c("replay", "run", cwd=tmp_path, env=ONE)
    assert done.returncode == 1
    assert "this is not the op graph of the last checkpoint:" in done.stdout
    told = re.findall(r"`\w+` came in round (\d) by the log, in round (\d) in the checkpoint", done.stdout)
    assert len(told) == 4 and all(int(there) == int(log) + 1 for log, there in told)
