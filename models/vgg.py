"""The VGG-like network for CIFAR-10 with random gains on all its channels and neurons.

Thirteen 3 × 3 convolutions of 64 to 512 channels, each with batch norm and relu, with max-pooling after the second,
fourth, seventh, tenth and last, then 512 neurons. Gain θ_lc multiplies channel c of layer l where the next layer reads
it, behind batch norm, relu and pooling:

    net = NoisyNetwork(network((3, 32, 32), 10), torch.zeros(2, 3, 32, 32))
    model = SupervisedModel(net, lambda logits: dist.Categorical(logits=logits), num_data=50_000)
    history = fit(model, AutoTruncatedLogNormal(model), loader, criterion=bmrs_n())

Sources: Neklyudov et al. (NIPS 2017), section 5.3, who prune this network of Zagoruyko (2015); the random gains take
the place of its dropout.
"""

from __future__ import annotations

__all__ = ["input_size", "network"]

from torch import nn

input_size = 32

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, 32, 32)``."""
    layers: list[nn.Module] = []
    fan_in = input_shape[0]
    for stage in WIDTHS:
        for width in stage:
            layers += [nn.Conv2d(fan_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            fan_in = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(fan_in, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, num_classes)]
    return nn.Sequential(*layers, *head)
