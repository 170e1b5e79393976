"""LeNet-5 as Caffe trains it, the convolutional network of the SBP paper: 20-50-800-500.

800 is the number of features that 50 channels of 4 × 4 flatten to. The model and guide of models/lenet5.py train the
network unchanged; this file only defines it.

Source: Neklyudov et al. (NIPS 2017), section 5.1.
"""

from __future__ import annotations

__all__ = ["network"]

from torch import nn


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, 28, 28)``."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
