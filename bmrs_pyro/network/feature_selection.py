"""The layer that makes the inputs of a network structures, which can leave as neurons do."""

from __future__ import annotations

__all__ = ["FeatureSelection"]

import torch
from torch import Tensor, nn


class FeatureSelection(nn.Module):
    """Pass on the features that are left, each times a weight of its own.

        y[:, i] = weight[i] x[:, index[i]]

    As the first layer it gives every input a gain that says whether the data need it (automatic relevance
    determination); a small network reads the inputs that are left and no others. It stays in that network: there
    is no layer in torch that leaves inputs out.

    Args:
        num_features: size of dimension 1 of the inputs.

    Raises:
        ValueError: there are no features, or inputs come with another number of them.

    Attributes:
        in_features: how many inputs come, however few are read.
        out_features: how many are read.
        weight: ``(n,)``, ones at first.
        index: ``(n,)``, which inputs are read; all of them at first.

    Reference: Neklyudov et al., NIPS 2017, section 5.1, whose LeNet-500-300 has noise on its inputs.
    """

    index: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}; it is the number of inputs, at least 1")
        self.in_features = self.out_features = num_features
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("index", torch.arange(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return y, ``(batch, n, ...)``, of x, ``(batch, in_features, ...)``."""
        if x.shape[1] != self.in_features:  # more of them would be left out without a word
            raise ValueError(f"x has {x.shape[1]} features in dimension 1; expected {self.in_features}")
        return x.index_select(1, self.index) * self.weight.view(-1, *(1,) * (x.dim() - 2))

    def extra_repr(self) -> str:
        """Return how many inputs come, and how many are read."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
