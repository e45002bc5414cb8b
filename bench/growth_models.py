"""What the study of `growth_tables` trains: tables, models of ours and of scikit-learn, and how large each is."""

from __future__ import annotations

import importlib
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import r2d2c
from r2d2c.opgraph import NUMBER, Topology, used
from r2d2c.train.data.dataset import Dataset
from r2d2c.train.data.source import DataContext
from r2d2c.train.data.sources import open_data
from r2d2c.train.replay import replay

SPEC = Path(__file__).parents[1] / "specs" / "growth" / "tabular.yaml"
FOLDS = 5
LOSS = "classify"

# Epochs, batch size, optimizer and schedule are those of the ready spec; H comes from the op graph it is beside.
MLP = """\
r2d2c: 1
model: mlp_tabular
dims: {D: 13, H: 8, C: 3}
inputs:
  x: f32[B, D]
targets:
  y: i64[B]
tasks:
  classify:
    behavior: |
      h = relu(linear(x, H))
      logits = linear(h, C)
    distance: cross_entropy(logits, y)
losses:
  small:
    value: "sum(square(classify.h.linear.weight)) + sum(square(classify.logits.linear.weight))"
    weight: 0.01
outputs:
  logits: classify.logits
train:
  data: wine
  epochs: 80
  batch_size: 32
  optimizer: adam(lr=1e-2)
  schedule: cosine
  metrics: ["accuracy(logits, y)"]
"""


# More rounds, and the last half of them only prune: all that the logits would not miss by a tenth, others making up.
SMALL = tuple(
    f"op_graphs.layer.grow.{change}"
    for change in (
        "every=epochs(2)",
        "add=6",
        "prune=4",
        "by=saliency",
        "below=0.1",
        "compensate=true",
        "settle=30",
    )
)


@dataclass(frozen=True, slots=True)
class Set:
    """A table. classes: None if a number is to be told, by its coefficient of determination R²."""

    name: str
    inputs: int
    classes: int | None = None

    def data(self, fold: int) -> Dataset:
        return open_data(f"{self.name}?folds={FOLDS}&fold={fold}", DataContext(trusted=True))

    @property
    def settings(self) -> tuple[str, ...]:
        """What makes a spec that is written for wine fit."""
        sizes = (f"dims.D={self.inputs}", f"dims.C={self.classes or 1}")
        if self.classes is not None:
            return sizes
        told = ("targets.y=f32[B, 1]", f"tasks.{LOSS}.distance=mse(logits, y)")
        return (*sizes, *told, 'train.metrics=["mse(logits, y)"]')


SETS = (Set("wine", 13, 3), Set("breast_cancer", 30, 2), Set("diabetes", 10))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One training. metric: accuracy or R² on the test part; loss: cross entropy or squared error there.

    parameters: see `HEAD`. ops: of an op graph that has grown. seconds: of the processor, for this training alone.
    """

    metric: float
    loss: float
    parameters: int
    seconds: float
    ops: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One training to do. setting: the candidate. like: how many parameters an MLP is to have, about."""

    table: Set
    data: Dataset
    setting: float
    seed: int
    epochs: int | None = None
    like: int | None = None


class Clock:
    """A callback: processor seconds from the start of a training to its last batch."""

    seconds = 0.0

    def on_start(self, start: Any) -> None:
        self.began = time.process_time()

    def on_step(self, step: Any) -> None:
        self.seconds = time.process_time() - self.began


# -- how many numbers a model has learned
def op_graph_parameters(topology: Topology, outputs: int) -> int:
    """The nodes' own numbers, a weight an output for every input and every node, and the biases."""
    own = int((used(topology) & (topology.args == NUMBER)).sum())
    return own + outputs * (topology.inputs + topology.count + 1)


def mlp_parameters(inputs: int, hidden: int, outputs: int) -> int:
    return hidden * (inputs + 1) + outputs * (hidden + 1)


def hidden_units(parameters: int, inputs: int, outputs: int) -> int:
    """How many hidden units an MLP has that has about so many parameters."""
    return max(1, round((parameters - outputs) / (inputs + outputs + 1)))


def tree_parameters(trees: Sequence[Any]) -> int:
    """A threshold for every split and a value for every leaf; which input a split looks at is not counted."""
    return sum(int(tree.node_count) for tree in trees)


# -- the models
def trained(
    job: Job, spec: Any, settings: Sequence[str], count: Callable[[r2d2c.Run], tuple[int, int | None]]
) -> Outcome:
    """A training of ours. count: how many parameters it has learned, and how many ops have grown."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = r2d2c.train(
            spec,
            data=job.data,
            out=Path(folder) / "run",
            epochs=job.epochs,
            seed=job.seed,
            threads=1,
            settings=settings,
            callbacks=[clock],
        )
        assert run.test is not None
        parameters, ops = count(run)
        loss = run.test["losses"][LOSS]
        if job.table.classes is not None:
            (metric,) = run.test["metrics"].values()
        else:
            assert job.data.test is not None
            metric = 1 - loss / float(np.var(job.data.test["y"]))
    return Outcome(metric, loss, parameters, clock.seconds, ops)


def op_graph(job: Job, *changes: str) -> Outcome:
    """The ready spec. The candidates are weights of its loss `small`."""

    def count(run: r2d2c.Run) -> tuple[int, int]:
        (grown,) = replay(run).values()
        return op_graph_parameters(grown.topology, job.table.classes or 1), grown.topology.count

    settings = (*job.table.settings, f"losses.small.weight={job.setting}", *changes)
    return trained(job, SPEC, settings, count)


def pruned_op_graph(job: Job) -> Outcome:
    return op_graph(job, *SMALL)


def mlp(job: Job) -> Outcome:
    assert job.like is not None
    inputs, outputs = job.table.inputs, job.table.classes or 1
    hidden = hidden_units(job.like, inputs, outputs)
    settings = (*job.table.settings, f"dims.H={hidden}", f"losses.small.weight={job.setting}")
    parameters = mlp_parameters(inputs, hidden, outputs)
    return trained(job, r2d2c.loads(MLP, settings=settings), (), lambda run: (parameters, None))


def fitted(job: Job, model: Any, count: Callable[[Any], int]) -> Outcome:
    """A model of scikit-learn."""
    assert job.data.test is not None
    x, y, test_x, test_y = (part[name] for part in (job.data.train, job.data.test) for name in ("x", "y"))
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y.ravel())
    seconds = time.process_time() - began
    if job.table.classes is None:
        loss = float(np.square(model.predict(test_x) - test_y.ravel()).mean())
    else:
        chances = model.predict_proba(test_x)[np.arange(len(test_y)), test_y]
        loss = float(-np.log(np.maximum(chances, np.finfo(np.float32).tiny)).mean())
    return Outcome(float(model.score(test_x, test_y.ravel())), loss, count(model), seconds)


def linear(job: Job) -> Outcome:
    """Logistic or ridge regression. The candidates are the weight of the squared weights beside the summed loss."""
    models = importlib.import_module("sklearn.linear_model")  # scikit-learn has no types
    if job.table.classes is None:
        model = models.Ridge(alpha=job.setting)
    else:
        model = models.LogisticRegression(C=1 / job.setting, max_iter=5_000)
    return fitted(job, model, lambda model: int(model.coef_.size + np.size(model.intercept_)))


def trees(job: Job) -> Outcome:
    """Gradient-boosted trees of depth 3. The candidates are how many rounds there are, each a tree an output."""
    models = importlib.import_module("sklearn.ensemble")
    made = (
        models.GradientBoostingRegressor if job.table.classes is None else models.GradientBoostingClassifier
    )
    model = made(n_estimators=int(job.setting), random_state=job.seed)
    return fitted(job, model, lambda model: tree_parameters([t.tree_ for t in model.estimators_.ravel()]))
