"""Data sets made of what installed packages bring: documentation, scikit-learn's tables and digits, a time series."""

from __future__ import annotations

__all__ = ["breast_cancer", "characters", "diabetes", "docstrings", "maps", "membrane", "texts", "wine"]

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from bmrs_pyro.data import Dataset, Splits, stratified_split

PACKAGES = ("matplotlib", "numpy", "pandas", "scipy", "sklearn", "torch")
LENGTH, WORDS, CHARACTERS = 32, 2000, 97
_LEAST = 80  # characters of a docstring that is taken
_LARGE = 10**5  # bytes of a file that is passed by, for parsing it takes long


def docstrings(package: Path, most: int) -> list[str]:
    """Return docstrings of a package's modules, classes and functions, each once; nothing is imported."""
    files = sorted(package.rglob("*.py"))
    found: dict[str, None] = {}
    for place in np.random.default_rng(0).permutation(len(files)):
        found |= dict.fromkeys(_in_file(files[place]))
        if len(found) >= most:
            break
    return list(found)[:most]


def texts(per_class: int = 300) -> Splits[Dataset]:
    """Docstrings, to be told which of six packages they document; the packages' own names are left out."""
    site = Path(sysconfig.get_path("purelib"))
    own = {*PACKAGES, "np", "pd", "plt", "pyplot", "ndarray", "dataframe", "tensor", "axes", "estimator"}
    rows = [
        ([word for word in re.findall(r"[a-z]+|\d|[^\w\s]", text.lower()) if word not in own], label)
        for label, package in enumerate(PACKAGES)
        for text in docstrings(site / package, per_class)
    ]
    counts = Counter(word for words, _ in rows for word in words)
    number = {word: place for place, (word, _) in enumerate(counts.most_common(WORDS - 2), 2)}
    tokens = torch.zeros(len(rows), LENGTH, dtype=torch.int64)
    for row, (words, _) in zip(tokens, rows, strict=True):
        ids = [number.get(word, 1) for word in words[:LENGTH]]
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    labels = torch.tensor([label for _, label in rows])
    return _split(Dataset(tokens, labels, len(PACKAGES), "docstrings", PACKAGES))


def characters(count: int = 1500) -> Splits[Dataset]:
    """Pieces of documentation of the standard library and what lies beside it, character by character."""
    text = "\n\n".join(docstrings(Path(sysconfig.get_path("stdlib")), count))
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 31
    codes[(codes < 1) | (codes >= CHARACTERS)] = 0  # newlines and what is rare
    whole = codes[: len(codes) // LENGTH * LENGTH].reshape(-1, LENGTH)
    rows = torch.from_numpy(whole[np.random.default_rng(0).permutation(len(whole))[:count]])
    return _split(Dataset(rows, rows, CHARACTERS, "documentation"))


def breast_cancer() -> Splits[Dataset]:
    """Scikit-learn's 569 tumours: thirty measurements, and whether the tumour is benign."""
    return _table(load_breast_cancer, 2, "breast cancer")


def wine() -> Splits[Dataset]:
    """Scikit-learn's 178 wines: thirteen measurements, and which of three growers made the wine."""
    return _table(load_wine, 3, "wine")


def diabetes() -> Splits[Dataset]:
    """Scikit-learn's 442 patients: ten measurements, and the progression of the disease a year later."""
    return _table(load_diabetes, 1, "diabetes")


def membrane(window: int = 16) -> Splits[Dataset]:
    """A membrane's current from matplotlib's sample data: the next value from those before it; no windows overlap."""
    series = torch.from_numpy(np.fromfile(get_sample_data("membrane.dat", asfileobj=False), np.float32))
    windows = ((series - series.mean()) / series.std()).unfold(0, window + 1, window + 1)
    return _split(Dataset(windows[:, None, :-1].contiguous(), windows[:, -1].contiguous(), 1, "membrane"))


def maps(count: int = 500) -> Splits[Dataset]:
    """Three of scikit-learn's digits on a noisy ground of 32 × 32 pixels, to be labelled pixel by pixel."""
    digits = load_digits()
    random = np.random.default_rng(0)
    images = random.uniform(0, 6, (count, 1, 32, 32)).astype(np.float32)
    labels = np.zeros((count, 32, 32), np.int64)
    for image, label in zip(images[:, 0], labels, strict=True):
        for quarter in random.choice(4, 3, replace=False):
            row, column = (16 * (quarter // 2) + random.integers(9), 16 * (quarter % 2) + random.integers(9))
            which = random.integers(len(digits.images))
            place = slice(row, row + 8), slice(column, column + 8)
            ink = digits.images[which] > 6
            image[place] += digits.images[which] * ink
            label[place][ink] = 1 + digits.target[which]
    x = torch.from_numpy((images - images.mean()) / images.std())
    return _split(Dataset(x, torch.from_numpy(labels), 11, "digit maps"))


def _table(load: Callable[..., Any], outputs: int, name: str) -> Splits[Dataset]:
    x, y = load(return_X_y=True)
    inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return _split(Dataset(inputs, labels.float() if outputs == 1 else labels, outputs, name))


def _split(data: Dataset) -> Splits[Dataset]:
    rest, test = stratified_split(data, 0.2)
    return Splits(*stratified_split(rest, 0.2), test)


def _in_file(file: Path) -> Iterator[str]:
    if file.stat().st_size > _LARGE:
        return
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _LEAST:
                yield text
