"""W&B, MLflow and Hugging Face's `datasets` themselves, where they are installed: the stand-ins of other tests are like them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import r2d2c
from r2d2c.train.data import DataContext, open_data

TWO = Path(__file__).parents[2] / "specs" / "tasks" / "two_tasks.yaml"


def test_mlflow_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    more = [
        "train.schedule=warmup(epochs=1) |> cosine",
        "train.optimizers={'encode.h.*': sgd(lr=0.1)}",
        "train.clip={encode: 1.0}",
    ]
    r2d2c.train(TWO, out=tmp_path / "run", epochs=2, threads=1, log=["mlflow"], settings=more)
    r2d2c.train(resume=tmp_path / "run", epochs=3, threads=1, log=["mlflow"])
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("two_tasks").experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["schedule"] == "warmup(epochs=1) |> cosine"
    assert found.data.params["clip_of_encode"] == "norm(1)"
    assert found.data.params["optimizer_of_encode.h."] == "sgd(lr=0.1)"
    records = r2d2c.open_run(tmp_path / "run").metrics
    for split, key in (("train", "loss/encode/train"), ("test", "loss/encode/test")):
        history = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, key)]
        assert history == [(r["epoch"], r["losses"]["encode"]) for r in records if r["split"] == split]


def test_wandb_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline it writes a file of its own, in which texts stand as they are."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    r2d2c.train(TWO, out=tmp_path / "run", epochs=2, threads=1, log=["wandb"])
    noted = json.loads((tmp_path / "run" / "logs.json").read_text())["wandb"]
    assert noted["lines"] == len(r2d2c.open_run(tmp_path / "run").metrics) == 3
    (kept,) = tmp_path.rglob(f"run-{noted['id']}.wandb")
    assert all(text in kept.read_bytes() for text in (b"loss/encode/test", b"adam(lr=0.002)", b"two_tasks"))


def test_hugging_face_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "vector": datasets.Sequence(datasets.Value("float32"), length=4),
        "label": datasets.ClassLabel(names=["a", "b", "c"]),
        "image": datasets.Image(),
        "text": datasets.Value("string"),
    }
    rows = {
        "vector": draw.normal(size=(30, 4)).astype("float32").tolist(),
        "label": [i % 3 for i in range(30)],
        "image": [Image.fromarray(draw.integers(0, 255, (8, 6), dtype=np.uint8)) for _ in range(30)],
        "text": ["hello"] * 30,
    }
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    pixels = np.stack([np.asarray(image) for image in rows["image"]])[:, None]
    datasets.DatasetDict({"train": made, "test": made.select(range(6))}).save_to_disk(str(tmp_path / "saved"))
    data = open_data(f"hf:{tmp_path / 'saved'}", DataContext(trusted=True))
    assert {name: len(table) for name, table in data.splits.items()} == {"train": 30, "test": 6}
    columns = data.train.columns
    assert columns["image"].type_text == "f32[N, 1, 8, 6]" and data.classes == ("a", "b", "c")
    assert np.array_equal(columns["image"].array, pixels)
    assert np.allclose(columns["vector"].array, rows["vector"])
    assert columns["y"].array.tolist() == rows["label"]
    assert data.notes == ("`text` is left out: it is string",)
