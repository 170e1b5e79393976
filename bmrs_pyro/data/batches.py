"""Normalised mini-batches of a data set in memory."""

from __future__ import annotations

__all__ = ["Batches"]

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmrs_pyro.data.augmentation import Augmentation
from bmrs_pyro.data.dataset import Dataset
from bmrs_pyro.data.items import Items


class Batches:
    """Serve ``(x, y)``: x = (images − mean) / std as float32 ``(B, *input_shape)``, y labels or values ``(B, …)``.

    Tokens are served unchanged. Items of a torch Dataset are joined by torch's ``default_collate``. Data in memory
    are kept on the device as stored (uint8), and each batch is gathered and normalised there by a few tensor
    operations. Each pass is one epoch and advances the epoch's number. The order depends on (seed, epoch) alone,
    so a run that resumes with :meth:`set_epoch` gets the same batches as an uninterrupted one.

    Args:
        dataset: the data to serve.
        batch_size: examples per batch; the last one may be shorter.
        shuffle: draw a new order each epoch, for training; False keeps the order of the data.
        seed: seed of the order, non-negative.
        device: where the data are kept and the batches made.
        drop_last: leave out a shorter last batch.
        augmentation: changes every batch at random; its draws depend on (seed, epoch) alone, too.
        share: ``(k, n)`` serves part k (from 0) of n of every batch, for process k of n. The parts are consecutive and
            their lengths differ by at most one. A part of a short last batch may be empty.

    Raises:
        ValueError: the batch size is below 1, the seed is negative, there is no batch, or the share is invalid.
    """

    def __init__(
        self,
        dataset: Dataset | Items,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if not isinstance(dataset, Dataset | Items):
            raise TypeError(
                f"dataset is a {type(dataset).__name__}; Batches serves a Dataset or Items of bmrs_pyro.data; for "
                "other data, give a torch.utils.data.DataLoader in its place"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"{len(dataset)} examples fill no batch of {batch_size}; drop_last leaves nothing"
            )
        if augmentation and (isinstance(dataset, Items) or dataset.labels.ndim > 1):
            raise ValueError("only images with one label each are augmented; leave the augmentation out")
        if not 0 <= share[0] < share[1]:
            raise ValueError(f"share is {share}; (k, n) is the k-th of n parts, with k from 0 to n - 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.device = torch.device(device)
        self.drop_last = drop_last
        self.augmentation = augmentation
        self.share = share
        self.epoch = 0
        if isinstance(dataset, Dataset):
            self._images, self._labels = dataset.images.to(self.device), dataset.labels.to(self.device)
            self._moments = dataset.moments(self.device)

    @property
    def num_data(self) -> int:
        """Number of examples N in the data set, which scales the likelihood in an ELBO."""
        return len(self.dataset)

    def __len__(self) -> int:
        whole = self.num_data / self.batch_size
        return math.floor(whole) if self.drop_last else math.ceil(whole)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, that the next pass serves."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        order = self._order(self.epoch)
        if self.device.type == "cuda":
            order = order.pin_memory()
        order = order.to(self.device, non_blocking=True)  # the only transfer to the device in an epoch
        random = np.random.default_rng((self.seed, self.epoch, 1))  # independent of the order
        self.epoch += 1
        part, parts = self.share
        for batch in order.split(self.batch_size)[: len(self)]:
            first, stop = (len(batch) * edge // parts for edge in (part, part + 1))
            rows = batch[first:stop]
            if isinstance(self.dataset, Items):
                yield self.dataset.batch(rows)
                continue
            x = self.dataset.normalised(self._images.index_select(0, rows), *self._moments)
            if self.augmentation is not None:
                x = self.augmentation(x, random, first=first, total=len(batch))
            yield x, self._labels.index_select(0, rows)

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.num_data)
        return torch.from_numpy(np.random.default_rng((self.seed, epoch)).permutation(self.num_data))
