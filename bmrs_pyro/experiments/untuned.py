"""Networks and data that no recipe was tuned on, pruned by the default: tables, text and a time series."""

from __future__ import annotations

__all__ = ["TASKS", "run", "untuned_page"]

import inspect
import pkgutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

import matplotlib.cbook
import numpy
import sklearn.datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bmrs_pyro.experiments.spread import spread
from bmrs_pyro.metrics import ClassEvaluation, evaluate
from bmrs_pyro.pruning import prune

Config = Mapping[str, Any]

_PACKAGES = ("asyncio", "email", "json", "http", "logging", "multiprocessing", "unittest", "xml")
_LETTERS, _WINDOW = 64, 16


_HEAD = """# Networks that no recipe was tuned on

Made by `bmrs reproduce untuned --seeds 3 --out docs/results`. [untuned.json](untuned.json) has one object per run. The
file `bmrs_pyro/experiments/untuned.py` makes networks and data. A run gets them and the seed alone. A fifth of the
examples is validation data, which chooses. Another fifth is test data.

The default takes the smallest network within one standard error of the best on the validation data. Classes:
accuracy in percent. Values: root mean square error, in standard deviations of the values. Mean ± standard deviation
over the seeds.

| task | examples | parameters | seeds | removed, percent | test score, dense | pruned | within one standard error |
|---|---|---|---|---|---|---|---|"""


class Task(NamedTuple):
    """A network and data.

    Attributes:
        x, y: inputs and labels or values.
        net: the network.
        likelihood: of y; None for classes.
    """

    x: Tensor
    y: Tensor
    net: nn.Module
    likelihood: str | None = None


def _table(load: Callable[..., Any], classes: int | None) -> Callable[[], Task]:
    def task() -> Task:
        table, target = load(return_X_y=True)
        x = torch.tensor(table, dtype=torch.float32)
        x = (x - x.mean(0)) / x.std(0)
        y = torch.tensor(target)
        if classes is None:
            y = ((y - y.mean()) / y.std()).float().unsqueeze(1)
        net = nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes or 1)
        )
        return Task(x, y, net, None if classes else "normal")

    return task


def _docstrings() -> Task:
    """Lines of the docstrings of Python's standard library; the class is the package."""
    found: dict[str, int] = {}
    for label, package in enumerate(_PACKAGES):
        for name in [package, *_modules(package)]:
            for value in [sys.modules[name], *vars(sys.modules[name]).values()]:
                text = inspect.getdoc(value) if inspect.ismodule(value) or callable(value) else None
                for line in (text or "").splitlines():
                    if len(line.strip()) > 20:
                        found.setdefault(line.strip()[:_LETTERS], label)
    lines = sorted(found)
    x = torch.tensor([[min(ord(c), 127) for c in line.ljust(_LETTERS)] for line in lines])
    net = nn.Sequential(
        nn.Embedding(128, 16),
        _Swap(),
        nn.Conv1d(16, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(64, 64, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(64, len(_PACKAGES)),
    )
    return Task(x, torch.tensor([found[line] for line in lines]), net)


def _modules(package: str) -> list[str]:
    """Import the modules of a package that can be imported, and name them."""
    names = []
    for info in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not info.name.endswith("__main__"):
            try:
                import_module(info.name)
            except ImportError:  # a part for another system
                continue
            names.append(info.name)
    return names


class _Swap(nn.Module):
    """Put channels before time."""

    def forward(self, x: Tensor) -> Tensor:
        """Swap the last two dimensions."""
        return x.transpose(1, 2)


def _membrane() -> Task:
    """A membrane's current, from matplotlib's sample data: the next value from those before it."""
    file = matplotlib.cbook.get_sample_data("membrane.dat", asfileobj=False)
    series = torch.tensor(numpy.fromfile(file, numpy.float32))
    series = (series - series.mean()) / series.std()
    windows = series.unfold(0, _WINDOW + 1, _WINDOW + 1)  # none overlap
    net = nn.Sequential(
        nn.Conv1d(1, 32, 5),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )
    return Task(windows[:, None, :-1].contiguous(), windows[:, -1:].contiguous(), net, "normal")


TASKS: Mapping[str, Callable[[], Task]] = {
    "breast cancer (table)": _table(sklearn.datasets.load_breast_cancer, 2),
    "wine (table)": _table(sklearn.datasets.load_wine, 3),
    "diabetes (table, regression)": _table(sklearn.datasets.load_diabetes, None),
    "docstrings (text)": _docstrings,
    "membrane (time series, regression)": _membrane,
}
"""The tasks by name. Their data come with scikit-learn, matplotlib and Python."""


def run(config: Config) -> dict[str, Any]:
    """Prune one task's network with no option, and read the test data once for each of the two networks.

    Args:
        config: ``task``, a name in :data:`TASKS`, and ``seed``.
    """
    torch.manual_seed(config["seed"])
    task = TASKS[config["task"]]()
    order = torch.randperm(len(task.x), generator=torch.Generator().manual_seed(config["seed"]))
    test, validation, train = (
        TensorDataset(task.x[rows], task.y[rows])
        for rows in order.split([len(order) // 5, len(order) // 5, len(order) - 2 * (len(order) // 5)])
    )
    start = time.perf_counter()
    pruned = prune(
        task.net,
        DataLoader(train, 32, shuffle=True),
        validation=DataLoader(validation, 500),
        likelihood=task.likelihood,
        seed=config["seed"],
        progress=False,
    )
    seconds = time.perf_counter() - start
    dense, small = pruned.path.dense, pruned.point
    scores = {
        name: _score(evaluate(net, DataLoader(test, 500), likelihood=pruned.likelihood))
        for name, net in (("dense", pruned.path.network(dense)), ("small", pruned.network))
    }
    return {
        "examples": len(order),
        "parameters": dense.parameters,
        "compression": 100 * (1 - small.parameters / dense.parameters),
        "dense": scores["dense"],
        "small": scores["small"],
        "met": pruned.met,
        "seconds": seconds,
        "version": version("bmrs-pyro"),
    }


def _score(found: Any) -> float:
    return 100 * found.accuracy if isinstance(found, ClassEvaluation) else float(found.rmse)


def untuned_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page in Markdown."""
    lines = [_HEAD]
    for task in TASKS:
        mine = [row for row in rows if row["task"] == task]
        if mine:
            shown = [spread(row[key] for row in mine) for key in ("compression", "dense", "small")]
            held = f"{sum(row['met'] for row in mine)} of {len(mine)}"
            first = mine[0]
            cells = [task, f"{first['examples']:,}", f"{first['parameters']:,}", str(len(mine)), *shown, held]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
