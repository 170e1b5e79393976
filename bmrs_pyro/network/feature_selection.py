"""A layer that makes the inputs of a network structures, so that they can be removed like neurons."""

from __future__ import annotations

__all__ = ["FeatureSelection"]

import torch
from torch import Tensor, nn


class FeatureSelection(nn.Module):
    """Select features, and multiply each by its own weight.

        y[:, i] = weight[i] x[:, index[i]]

    As the first layer it gives every input a gain, which says whether the data need the input (automatic relevance
    determination). The small network reads the remaining inputs only. This layer stays in it, because torch has no
    layer that selects inputs.

    Args:
        num_features: size of dimension 1 of the inputs.

    Raises:
        ValueError: there are no features, or the inputs have another number of features.

    Attributes:
        in_features: number of features of the inputs, whether they are read or not.
        out_features: number of features that are read.
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
        if x.shape[1] != self.in_features:  # surplus features would be ignored silently
            raise ValueError(f"x has {x.shape[1]} features in dimension 1; expected {self.in_features}")
        return x.index_select(1, self.index) * self.weight.view(-1, *(1,) * (x.dim() - 2))

    def extra_repr(self) -> str:
        """Return the numbers of features that the inputs have and that are read."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
