"""``bmrs fit`` on tables, tokens, series, maps and the user's own data, by the likelihood that is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bmrs_pyro import load
from bmrs_pyro.data import DataSource
from bmrs_pyro.inference import ScaledLikelihood
from bmrs_pyro.runs import RunDirectory, load_splits, run_data
from bmrs_pyro.training import Recipe
from tests.cli.test_commands import command

NET = """
from torch import nn

class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)

def network(input_shape, num_classes):
    return nn.Sequential({first}nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, num_classes){last})
"""
FAST = [
    "--kl-weight",
    "mean:0.1",
    "--epochs",
    "3",
    "--fine-tune-epochs",
    "1",
    "--batch-size",
    "20",
    "--lr",
    "1e-2",
]
RNG = np.random.default_rng(0)


def network(path: Path, size: int, first: str = "", last: str = "") -> Path:
    path.write_text(NET.format(first=first, last=last).replace("LazyLinear(", f"Linear({size}, "))
    return path


def fitted(tmp_path: Path, net: Path, data: object, *more: object) -> Path:
    result = command("fit", net, "--out", tmp_path / "run", "--data", data, *FAST, *more)
    assert result.returncode == 0, result.stderr
    return tmp_path / "run"


def evaluated(run: Path, *more: object) -> dict[str, float]:
    result = command("evaluate", run, "--json", *more)
    assert result.returncode == 0, result.stderr
    found: dict[str, float] = json.loads(result.stdout)
    return found


def prices(path: Path) -> pd.DataFrame:
    rooms, city = RNG.integers(1, 9, 300), RNG.choice(["Bergen", "Oslo"], 300)
    price = 1e5 * (rooms + 2 * (city == "Oslo")) + RNG.normal(0, 2e4, 300)
    frame = pd.DataFrame({"rooms": rooms, "city": city, "price": price})
    frame.to_csv(path, index=False)
    return frame


@pytest.mark.parametrize("likelihood", ["normal", "student-t", "normal:predicted", "normal:30000"])
def test_regression_from_a_table_is_told_in_the_targets_units(likelihood: str, tmp_path: Path) -> None:
    frame = prices(tmp_path / "prices.csv")
    more = ("--target", "price", "--likelihood", likelihood, "--epochs", "30")
    run = fitted(tmp_path, network(tmp_path / "net.py", 2), tmp_path / "prices.csv", *more)
    directory = RunDirectory(run)
    assert directory.config.columns == {"rooms": (), "city": ("Bergen", "Oslo"), "price": ()}
    found = evaluated(run)
    assert 1e4 < found["rmse"] < 0.4 * frame.price.std()
    # the network's outputs are standardised; brute force over the test data
    test = run_data(directory).test
    outputs = load(run)(test.normalised(test.images, *test.moments())).detach()[:, 0]
    config = directory.config
    guess = config.target_mean[0] + config.target_std[0] * outputs
    assert found["rmse"] == pytest.approx(float((guess - test.labels).square().mean().sqrt()), rel=1e-5)
    likelihood_of = directory.likelihood()
    assert not isinstance(likelihood_of, str)
    with torch.no_grad():
        scores = likelihood_of(load(run)(test.normalised(test.images, *test.moments()))).log_prob(test.labels)
    assert found["nll"] == pytest.approx(-float(scores.mean()), rel=1e-5)
    if likelihood == "normal":
        report = command("report", run, "--html", tmp_path / "report.html")
        assert report.returncode == 0, report.stderr
        assert "RMSE" in (tmp_path / "report.html").read_text()
        told = command("export", run, "--out", tmp_path / "small.pt2").stdout
        for unit in (
            "Inputs are standardised: minus mean, over std",
            "Categories are numbers",
            "times target_std",
        ):
            assert unit in told


def test_a_path_of_regressions_chosen_by_its_likelihood(tmp_path: Path) -> None:
    prices(tmp_path / "prices.csv")
    source, run = network(tmp_path / "net.py", 2), tmp_path / "run"
    words = ("--data", tmp_path / "prices.csv", "--target", "price", "--likelihood", "normal")
    short = ("--epochs", 6, "--dense-epochs", 2, "--batch-size", 20, "--lr", "1e-2", "--max-params", "80%")
    refused = command("fit", source, "--out", run, *words, *short, "--score", "accuracy")
    assert (refused.returncode, run.exists()) == (2, False)  # before any training
    assert "no accuracy; choose by score='log_likelihood'" in refused.stderr
    result = command("fit", source, "--out", run, *words, *short)
    assert result.returncode == 0, result.stderr
    assert "RMSE" in result.stdout
    assert evaluated(run)["rmse"] > 1e4
    assert isinstance(RunDirectory(run).likelihood(), ScaledLikelihood)
    report = command("report", run, "--html", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    directory = RunDirectory(run)
    part, config = run_data(directory).validation, directory.config
    for which, net in (("small", directory.small()), ("dense", directory.dense().eval())):
        outputs = net(part.normalised(part.images, *part.moments())).detach()[:, 0]
        guess = config.target_mean[0] + config.target_std[0] * outputs
        rmse = float((guess - part.labels).square().mean().sqrt())
        told = re.search(rf"validation RMSE of the {which} network: (\S+)", report.stdout)
        assert told is not None
        assert float(told[1]) == pytest.approx(rmse, rel=1e-3)
    assert command("compare", run).returncode == 0


def test_a_changed_vocabulary_is_other_data(tmp_path: Path) -> None:
    table = tmp_path / "prices.csv"
    frame = prices(table)
    run = fitted(tmp_path, network(tmp_path / "net.py", 2), table, "--target", "city")
    assert evaluated(run)["accuracy"] > 0.4
    frame.assign(city=frame.city.replace("Oslo", "Asker")).to_csv(table, index=False)
    result = command("evaluate", run)
    assert result.returncode == 2
    assert "the columns or their categories differ, in city" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--target", "price"],
            "'price' holds real numbers, not classes; choose a likelihood, such as --likelihood normal",
        ),
        (["--target", "city", "--likelihood", "gamma"], "likelihood 'gamma' is unknown"),
        (["--target", "price", "--likelihood", "normal:-1"], "use a positive number"),
        ([], "no target is named; give --target, one of rooms, city, price"),
    ],
)
def test_a_target_that_the_likelihood_does_not_fit(words: list[str], message: str, tmp_path: Path) -> None:
    prices(tmp_path / "prices.csv")
    net = network(tmp_path / "net.py", 2)
    result = command("fit", net, "--out", tmp_path / "run", "--data", tmp_path / "prices.csv", *words)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def arrays(path: Path, **of: np.ndarray) -> Path:
    both: dict[str, Any] = {f"{key}_{part}": of[key] for key in of for part in ("train", "test")}
    np.savez(path, **both)
    return path


def test_next_tokens(tmp_path: Path) -> None:
    tokens = (np.arange(12) + RNG.integers(0, 8, (100, 1))) % 8
    net = network(tmp_path / "net.py", 6, "nn.Embedding(8, 6), ")
    run = fitted(tmp_path, net, arrays(tmp_path / "text.npz", tokens=tokens), "--likelihood", "next-token")
    found = evaluated(run)
    assert found["labels"] == 100 * 11
    assert found["perplexity"] == pytest.approx(np.exp(found["nll"]))
    assert RunDirectory(run).example().dtype == torch.int64
    exported = command("export", run, "--format", "pt2", "--out", tmp_path / "small.pt2")
    assert exported.returncode == 0, exported.stderr
    portable = command("export", run, "--format", "safetensors", "--out", tmp_path / "small.safetensors")
    assert portable.returncode == 0, portable.stderr
    again = load(tmp_path / "small.safetensors", trust_source=True)
    x = torch.from_numpy(tokens[:3])
    torch.testing.assert_close(again(x), load(run)(x))


def test_counts_several_labels_series_and_maps(tmp_path: Path) -> None:
    x = RNG.normal(size=(120, 5))
    rate = np.exp(1 + x[:, 0])
    for likelihood, y, figure in (
        ("poisson", RNG.poisson(rate), "rmse"),
        ("bernoulli", (x[:, :2] > 0).astype(int), "accuracy"),
    ):
        folder = tmp_path / likelihood
        folder.mkdir()
        file = arrays(folder / "data.npz", x=x, y=y)
        run = fitted(folder, network(folder / "net.py", 5), file, "--likelihood", likelihood)
        assert figure in evaluated(run)
    series = RNG.normal(size=(60, 7, 3))
    file = arrays(tmp_path / "series.npz", sequences=series, y=(series.mean((1, 2)) > 0).astype(int))
    assert "accuracy" in evaluated(fitted(tmp_path, network(tmp_path / "net.py", 3, "Mean(), "), file))


def test_maps_are_scored_by_mean_intersection_over_union(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    file = arrays(tmp_path / "maps.npz", x=images, y=(images[..., 0] > 128).astype(int))
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\n"
        "def network(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, num_classes, 1))\n"
    )
    run = fitted(tmp_path, net, file)
    assert 0 < evaluated(run)["mean_iou"] <= 1
    result = command("fit", net, "--out", tmp_path / "other", "--data", file, "--augment")
    assert result.returncode == 2
    assert "augment" in result.stderr


OWN = """
import torch
from torch.utils.data import DataLoader, TensorDataset

class Words(torch.utils.data.Dataset):
    def __len__(self):
        return 80
    def __getitem__(self, row):
        ids = (torch.arange(6) * (1 + row % 2) + row) % 9
        return {"input_ids": ids, "attention_mask": torch.ones(6), "labels": row % 2}

def data():
    return Words()

def loaders():
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    return [DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 20) for _ in range(3)]
"""
TEXT_NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 12), nn.Linear(12, classes)
    def forward(self, input_ids, attention_mask):
        h = self.hidden(self.embed(input_ids)).relu() * attention_mask.unsqueeze(-1)
        return self.head(h.mean(1))
def network(input_shape, num_classes):
    return Net(num_classes)
"""


def test_data_that_a_file_gives_are_imported_for_whom_names_them(tmp_path: Path) -> None:
    own, net = tmp_path / "own.py", tmp_path / "net.py"
    own.write_text(OWN)
    net.write_text(TEXT_NET)
    run = fitted(tmp_path, net, own)
    assert set(RunDirectory(run).example()) == {"input_ids", "attention_mask"}
    refused = command("evaluate", run)
    assert refused.returncode == 2
    assert "its data come from" in refused.stderr
    assert "--trust-source" in refused.stderr
    assert "accuracy" in evaluated(run, "--trust-source")
    resumed = command("fit", net, "--out", run, "--data", own, *FAST, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    report = command("report", run, "--trust-source", "--html", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr


def test_loaders_that_a_module_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_loaders.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run = fitted(tmp_path, network(tmp_path / "net.py", 4), "own_loaders:loaders")
    assert evaluated(run, "--trust-source")["count"] == 80


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines no callable data()"),
        ("def data(): return 1 / 0", "fails to give data"),
        ("def data(seed): return []", "which does not fit"),
        ("def data(): return 7", "gave a int; expected a torch Dataset"),
        (None, "cannot be read"),
    ],
)
def test_code_that_gives_no_data(code: str | None, message: str, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    if code is not None:
        own.write_text(code)
    result = command("fit", network(tmp_path / "net.py", 4), "--out", tmp_path / "run", "--data", own)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


CODE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

torch.manual_seed(0)
x = torch.randn(200, 4)

class Two(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(4, 12), nn.Linear(12, outputs)

    def forward(self, a, b):
        return self.last(self.first(a + b).relu())

def network(input_shape, num_classes):
    return Two(num_classes)

def data():
    return [((row, row.flip(0)), int(row[0] + row[3] > 0)) for row in x]
"""


def test_several_inputs_as_a_tuple_through_all_commands(tmp_path: Path) -> None:
    source = tmp_path / "two.py"
    source.write_text(CODE)
    run = fitted(tmp_path, source, source, "--epochs", 10)
    trust = "--trust-source"
    for words in (
        ("report", run, "--html", tmp_path / "page.html"),
        ("evaluate", run, "--draws", 2),
        ("compare", run),
        ("prune", run, "--criterion", "snr"),
        ("export", run, "--out", tmp_path / "two.pt2"),
    ):
        result = command(*words, trust)
        assert result.returncode == 0, (words, result.stderr)
    assert evaluated(run, trust)["accuracy"] > 0.7
    noisy = command("evaluate", run, trust, "--corruption", "noise")
    assert (noisy.returncode, "noise is for one input of real numbers" in noisy.stderr) == (2, True)


def test_values_of_code_are_standardised(tmp_path: Path) -> None:
    source = tmp_path / "far.py"
    values = "def data():\n    return TensorDataset(x.double(), 500 + 100 * x[:, 0].double())\n"
    source.write_text(CODE + values)
    run = fitted(tmp_path, network(tmp_path / "net.py", 4), source, "--likelihood", "normal", "--epochs", 20)
    config = RunDirectory(run).config
    train = torch.cat(list(run_data(RunDirectory(run, trust_source=True)).train.labels()))
    assert config.target_mean[0] == pytest.approx(train.double().mean().item(), rel=1e-6)
    assert config.target_std[0] == pytest.approx(train.double().std(correction=0).item(), rel=1e-6)
    assert evaluated(run, "--trust-source")["rmse"] < 60  # without standardised values it is 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("None", "gave None; return a torch Dataset"),
        ("TensorDataset(x, 0 * x[:, 0].long())", "all labels are of one class, so there is nothing to predict"),
        ("3 * [torch.utils.data.DataLoader(TensorDataset(x.long(), (x[:, 0] > 0).long()), 8)]",
         r"does not run on the example inputs .*inputs are torch\.int64, the weights torch\.float32"),
        ("TensorDataset(x, x[:, 0])", "are no classes, .* choose a likelihood, such as --likelihood normal"),
    ],
)  # fmt: skip
def test_code_that_gives_no_usable_data_ends_with_one_line(data: str, message: str, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(f"{CODE}\ndef data():\n    return {data}\n")
    result = command(
        "fit", network(tmp_path / "net.py", 4), "--out", tmp_path / "run", "--data", source, *FAST
    )
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_function_of_a_file_is_told_how_to_be_named(tmp_path: Path) -> None:
    result = command("fit", "net.py:build", "--out", tmp_path / "run")
    assert result.returncode == 2
    assert (
        "give net.py alone, which defines network(input_shape, num_classes); or net:build, a module"
        in result.stderr
    )


def test_tokens_that_are_their_own_labels_give_a_warning(tmp_path: Path) -> None:
    tokens = RNG.integers(0, 5, (40, 6))
    np.savez(tmp_path / "text.npz", tokens_train=tokens, tokens_test=tokens)
    source = DataSource(str(tmp_path / "text.npz"))
    with pytest.warns(UserWarning, match="each token is its own label; choose --likelihood next-token"):
        load_splits(source, Recipe())
    load_splits(source, Recipe(likelihood="next-token"))


PARTS = """
import torch
from torch.utils.data import TensorDataset

def data():
    x, y = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 2
    parts = [TensorDataset(x[:60], y[:60]), TensorDataset(x[60:75], y[60:75]), TensorDataset(x[75:], y[75:])]
    parts[{part}].tensors[{what}][3] = {value}
    return parts
"""


@pytest.mark.parametrize(("part", "name"), [(1, "validation"), (2, "test")])
@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        (0, "float('nan')", "example 3 (counted from 0) of the {} part holds NaN or infinity"),
        (1, "5", "the {} part has the label 5, but those of the training part go to 1"),
        (
            1,
            "-1",
            "{} part: the network has 2 outputs, for labels from 0 to 1, but those of a batch go from -1 to 1",
        ),
    ],
)
def test_the_other_parts_are_checked_before_training(
    what: int, value: str, message: str, part: int, name: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(PARTS.format(part=part, what=what, value=value))
    net = network(tmp_path / "net.py", 4)
    result = command("fit", net, "--data", tmp_path / "own.py", "--out", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 2
    assert message.format(name) in result.stderr
    assert not (tmp_path / "run").exists()


def test_parts_that_are_empty_or_too_many_are_refused(tmp_path: Path) -> None:
    net = network(tmp_path / "net.py", 4)
    for parts, message in (
        ("parts[:2] + [TensorDataset(x[:0], y[:0])]", "the test part has no examples"),
        ("[*parts, parts[0]]", "gave 4 parts; expected one, two or three"),
    ):
        (tmp_path / "own.py").write_text(
            PARTS.format(part=1, what=0, value=0).replace("return parts", f"return {parts}")
        )
        result = command("fit", net, "--data", tmp_path / "own.py", "--out", tmp_path / "run", cwd=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr


@pytest.mark.filterwarnings("always:the network has 4 outputs")
def test_outputs_that_no_class_has_give_a_warning(tmp_path: Path) -> None:
    x = RNG.normal(size=(200, 4))
    file = arrays(tmp_path / "data.npz", x=x, y=(x[:, 0] > 0).astype(int))
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def network(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, num_classes + 2))\n"
    )
    result = command(
        "fit", tmp_path / "net.py", "--out", tmp_path / "run", "--data", file, *FAST, cwd=tmp_path
    )
    assert "the network has 4 outputs for 2 classes: give its last layer 2 outputs" in result.stderr
