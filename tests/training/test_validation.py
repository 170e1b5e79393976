"""Scores of held-out data: batches as torch's loaders make them, and those with nothing in them."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bmrs_pyro import NoisyNetwork, SupervisedModel
from bmrs_pyro.training.validation import validate
from tests.inference.programs import CLASSES, FEATURES, NUM_DATA, batches, blobs, categorical, program


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(3, 8), nn.Linear(2, 8), nn.Linear(8, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.out(torch.tanh(self.left(a) + self.right(b)))
        return out


def test_several_inputs_may_be_a_list() -> None:
    network = NoisyNetwork(Two(), torch.zeros(1, 3), torch.zeros(1, 2))
    model = SupervisedModel(network, categorical, NUM_DATA)
    x, y = blobs(count=64)
    examples = [((a[:3], a[3:]), b) for a, b in zip(x, y, strict=True)]
    loader: DataLoader[Any] = DataLoader(examples, batch_size=16)  # type: ignore[arg-type]
    assert isinstance(next(iter(loader))[0], list)
    distribution = dist.Categorical(logits=network((x[:, :3], x[:, 3:])))
    found = validate(model, {}, loader)
    assert found.log_likelihood == pytest.approx(distribution.log_prob(y).mean().item(), rel=1e-5)
    assert found.accuracy == pytest.approx((distribution.logits.argmax(-1) == y).double().mean().item())


def test_a_batch_without_examples_counts_nothing() -> None:
    model, _ = program()
    empty = torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.long)
    assert validate(model, {}, [empty, *batches(), empty]) == validate(model, {}, batches())
    with pytest.raises(ValueError, match="the validation data hold no examples"):
        validate(model, {}, [empty])
    with pytest.raises(ValueError, match="the validation data hold no examples"):
        validate(model, {}, DataLoader(TensorDataset(*empty), batch_size=4))
