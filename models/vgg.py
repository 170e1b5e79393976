"""The VGG-like network for CIFAR-10 with random gains on all its channels and neurons.

Thirteen 3 × 3 convolutions of 64 to 512 channels, each with batch norm and relu, with max-pooling after the second,
fourth, seventh, tenth and last, then 512 neurons. Gain θ_lc multiplies channel c of layer l where the next layer reads
it, after batch norm, relu and pooling:

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

WIDTH, STAGES = 64, ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def network(input_shape: tuple[int, ...], num_classes: int, width: int = WIDTH) -> nn.Module:
    """Return the deterministic network for images of shape ``(c, 32, 32)``, ``width`` channels in the first stage."""
    layers: list[nn.Module] = []
    fan_in = input_shape[0]
    for stage in STAGES:
        for channels in (factor * width for factor in stage):
            layers += [nn.Conv2d(fan_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            fan_in = channels
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(fan_in, fan_in), nn.BatchNorm1d(fan_in), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(fan_in, num_classes))
