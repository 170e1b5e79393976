"""Stratified splits: two parts with the same class proportions."""

from __future__ import annotations

__all__ = ["TEST_SHARE", "stratified_split"]

from dataclasses import replace

import numpy as np
import torch

from bmrs_pyro.data.dataset import DataError, Dataset

TEST_SHARE = 0.2
"""Test share of data without a test part; the split is the same for every seed, so that runs are comparable."""


def stratified_split(dataset: Dataset, fraction: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Hold out a share of every class.

    The held-out part has round(fraction · N) examples, divided over the classes by largest remainder. Every
    class of two or more examples is in both parts, even if the held-out part gets another size by that.
    A class of one example stays in the first part. Both parts keep the order of the data.

    Real values, and labels per pixel or per token, are not stratified.

    Args:
        dataset: the data to split.
        fraction: share to hold out, in (0, 1).
        seed: non-negative; the same seed gives the same split.

    Returns:
        The first and the held-out part.

    Raises:
        DataError: the fraction is outside (0, 1), the seed is negative, or every class has only one example.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the share to hold out is {fraction}; it must lie between 0 and 1, both excluded")
    if seed < 0:
        raise DataError(f"seed is {seed}; it must not be negative")
    one_class_each = dataset.labels.ndim == 1 and not dataset.labels.is_floating_point()
    labels = dataset.labels.numpy() if one_class_each else np.zeros(len(dataset), dtype=int)
    counts = np.bincount(labels, minlength=dataset.num_classes)
    quotas = _quotas(counts, round(fraction * len(labels)), dataset.name)

    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    held = np.empty(len(labels), dtype=bool)
    held[order] = rank < quotas[labels[order]]

    masks = torch.from_numpy(~held), torch.from_numpy(held)
    rest, part = (replace(dataset, images=dataset.images[m], labels=dataset.labels[m]) for m in masks)
    return rest, part


def _quotas(counts: np.ndarray, total: int, name: str) -> np.ndarray:
    """Return how many examples of each class to hold out, ``(K,)``; their sum is ``total`` if the bounds allow."""
    least, most = np.where(counts > 1, 1, 0), np.maximum(counts - 1, 0)
    if not least.any():
        raise DataError(f"{name}: no class has two examples, so none can be held out; give more data")
    exact = counts * (total / counts.sum())
    quotas = np.clip(np.floor(exact).astype(int), least, most)
    while gap := int(np.sign(total - quotas.sum())):
        free = quotas < most if gap > 0 else quotas > least
        if not free.any():
            break
        quotas[np.argmax(np.where(free, gap * (exact - quotas), -np.inf))] += gap
    return quotas
