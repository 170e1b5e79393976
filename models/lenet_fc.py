"""LeNet-500-300, the fully connected network of the SBP paper: 784-500-300-10, with gains on its inputs too.

The model and guide of models/lenet5.py train it unchanged; this file only defines the network.

Source: Neklyudov et al. (NIPS 2017), section 5.1.
"""

from __future__ import annotations

__all__ = ["network"]

import math

from torch import nn

from bmrs_pyro.network import FeatureSelection


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for inputs of any shape, which it flattens."""
    pixels = math.prod(input_shape)
    return nn.Sequential(
        nn.Flatten(),
        FeatureSelection(pixels),
        nn.Linear(pixels, 500),
        nn.ReLU(),
        nn.Linear(500, 300),
        nn.ReLU(),
        nn.Linear(300, num_classes),
    )
