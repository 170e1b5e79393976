"""LeNet-500-300, the fully connected network of the SBP paper: 784-500-300-10.

The program of models/lenet5.py trains it as it stands; this file only says what the network is.

Source: Neklyudov et al. (NIPS 2017), section 5.1.
"""

from __future__ import annotations

__all__ = ["network"]

import math

from torch import nn


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for inputs of any shape, which it flattens."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 500),
        nn.ReLU(),
        nn.Linear(500, 300),
        nn.ReLU(),
        nn.Linear(300, num_classes),
    )
