"""Small networks, one per way of passing channels on, and what the tests do with all of them."""

from __future__ import annotations

__all__ = [
    "CASES",
    "Attention",
    "Case",
    "chain",
    "gains",
    "lenet5",
    "masks",
    "mlp",
    "relative_error",
    "residual",
]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from bmrs_pyro.network import FeatureSelection, StructureFamily


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.PReLU(7), nn.Linear(7, 3))


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def chain(*layers: nn.Module) -> nn.Module:
    """An image network from its inner layers: 5 channels in, 6 out."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def vgg_bn() -> nn.Module:
    layers: list[nn.Module] = []
    for c_in, c_out in ((2, 6), (6, 8), (8, 8)):
        layers += [
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2)
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(self.body(x) + self.shortcut(x))
        return out


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        Block(6, 6), Block(6, 8, 2), Block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


class Dense(nn.Module):
    """Concatenations, one inside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(13)
        self.third = nn.Conv2d(13, 6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = torch.cat([self.second(x.relu()), x], 1)
        x = torch.cat([x, y], 1).relu()
        out: Tensor = self.last(self.third(self.norm(x)).relu().mean((2, 3)))
        return out


class Mobile(nn.Module):
    """Depthwise convolution and squeeze-excitation on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.expand = nn.Sequential(nn.Conv2d(6, 12, 1), nn.BatchNorm2d(12), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.InstanceNorm2d(12, affine=True)
        )
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x)).relu()
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        out: Tensor = self.last((x + self.project(y)).mean((2, 3)))
        return out


class TwoInputs(nn.Module):
    """Two inputs, two outputs and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = nn.Conv2d(2, 5, 3), nn.Linear(4, 6)
        self.shared = nn.Linear(6, 6)
        self.one, self.two = nn.Linear(11, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.shared(self.shared(self.table(y).relu()).relu())
        x = self.image(x).relu().amax((2, 3))
        return self.one(torch.cat([x, y], 1)), {"two": self.two(y)}


class Attention(nn.Module):
    """Attention by separate linear layers."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        x = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.projection(x.transpose(1, 2).flatten(2))
        return out


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.attention = Attention(8, 4)
        self.widen, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        x = x + self.narrow(functional.gelu(self.widen(x)))
        out: Tensor = self.last(x.mean(1))
        return out


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv, self.last = nn.Embedding(9, 5), nn.Conv1d(5, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.conv(self.embedding(x).transpose(1, 2)).relu().mean(-1))
        return out


@dataclass(frozen=True)
class Case:
    """A network, its inputs and the families it has, sizes by first producer."""

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    families: dict[str, int]
    vocabulary: int = 0

    def draw(self, batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Draw inputs: words, if the network has a vocabulary."""
        if self.vocabulary:
            return tuple(torch.randint(self.vocabulary, (batch, *shape)) for shape in self.inputs)
        return tuple(torch.randn(batch, *shape, dtype=dtype) for shape in self.inputs)

    def make(self, dtype: torch.dtype = torch.float64) -> Any:
        """Build the network with random batch-norm statistics, in evaluation mode."""
        net = self.build().to(dtype).eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for vector in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert vector is not None
                    vector.data.uniform_(0.5, 1.5)
        return net


IMAGE = ((2, 8, 8),)
CASES = {
    "mlp": Case(mlp, ((6,),), {"0": 8, "2": 7}),
    "mlp on tokens": Case(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), ((4, 6),), {"0": 8}),
    "selected inputs": Case(
        lambda: nn.Sequential(FeatureSelection(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
        ((6,),), {"0": 6, "1": 8},
    ),
    "selected channels": Case(
        lambda: nn.Sequential(FeatureSelection(4), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3)),
        ((4, 8, 8),), {"0": 4, "1": 6},
    ),
    "lenet5": Case(lenet5, ((1, 32, 32),), {"0": 6, "3": 16, "7": 120, "9": 84}),
    "vgg_bn": Case(vgg_bn, ((2, 16, 16),), {"0": 6, "4": 8, "8": 8, "13": 9}),
    "residual": Case(residual, IMAGE, {"0": 6, "3.body.0": 6, "4.body.0": 8, "4.body.3": 8, "5.body.0": 8}),
    "dense": Case(Dense, IMAGE, {"first": 4, "second": 5, "third": 6}),
    "mobile": Case(Mobile, IMAGE, {"stem": 6, "expand.0": 12, "squeeze": 4}),
    "grouped": Case(
        lambda: chain(nn.Conv2d(5, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 6, 1)),
        IMAGE, {"0": 5, "2": 4, "6": 6},
    ),
    "transposed": Case(
        lambda: chain(
            nn.ConvTranspose2d(5, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, groups=2), nn.Conv2d(4, 6, 1)
        ),
        IMAGE, {"0": 5, "2": 2, "5": 6},
    ),
    "conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 4, 3), nn.Flatten(), nn.Linear(16, 3)),
        ((2, 8),), {"0": 5, "2": 4},
    ),
    "two inputs": Case(TwoInputs, ((2, 5, 5), (4,)), {"image": 5, "table": 6}),
    "transformer": Case(Transformer, ((4, 5),), {"attention.query": 4, "widen": 12}),
    "words": Case(Words, ((7,),), {"embedding": 5, "conv": 6}, vocabulary=9),
}  # fmt: skip


def masks(structures: Sequence[StructureFamily], share: float = 0.5) -> dict[str, Tensor]:
    """Keep each structure with a probability, and one of each family at least."""
    keep = {family.name: torch.rand(family.size) < share for family in structures}
    for mask in keep.values():
        mask[torch.randint(len(mask), ())] = True
    return keep


def gains(
    structures: Sequence[StructureFamily], *batch: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Draw gains between 0.1 and 1."""
    return {
        family.name: torch.empty(*batch, family.size, dtype=dtype).uniform_(0.1, 1.0) for family in structures
    }


def relative_error(expected: Any, actual: Any) -> float:
    """Return the largest difference of two networks' outputs, relative to the largest output."""
    pairs = zip(tree_leaves(expected), tree_leaves(actual), strict=True)
    with torch.no_grad():
        return max(float((one - two).abs().max() / one.abs().max()) for one, two in pairs)
