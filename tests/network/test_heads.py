"""Attention heads are found from the computation, and leave exactly, whatever their number is called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bmrs_pyro.network import NoisyNetwork, Structures, compact, find_structures
from bmrs_pyro.network.explicit_attention import ExplicitAttention, make_explicit_
from bmrs_pyro.runs import load, save
from tests.network.networks import relative_error


def sizes(structures: Structures) -> dict[str, int]:
    return {family.name.removeprefix("theta."): family.size for family in structures}


def removal_error(network: NoisyNetwork, *inputs: Any, seed: int) -> float:
    """How far the small network is from the masked one, for random uneven masks, relative to the outputs."""
    random = torch.Generator().manual_seed(seed)
    keep = {f.name: torch.rand(f.size, generator=random) < 0.6 for f in network.structures}
    for mask in keep.values():
        mask[-1] = True
    theta = {name: torch.rand(len(mask), generator=random) + 0.5 for name, mask in keep.items()}
    with torch.no_grad():
        expected = network(inputs, {name: gain * keep[name] for name, gain in theta.items()})
        actual = compact(network, keep, theta)(*inputs)
    return relative_error(expected, actual)


class Own(nn.Module):
    """Attention whose number of heads has a name of its own."""

    def __init__(self, name: str, product: str, fused: bool, groups: int = 4) -> None:
        super().__init__()
        setattr(self, name, 4)
        self.name, self.product, self.fused, self.head_dim = name, product, fused, 3
        self.groups, self.repeats = groups, 4 // groups
        widths = (12, 3 * groups, 3 * groups)
        self.read = nn.ModuleList(
            [nn.Linear(10, sum(widths))] if fused else [nn.Linear(10, w) for w in widths]
        )
        self.write = nn.Linear(12, 10)
        self.inner = 12

    def forward(self, x: Tensor) -> Tensor:
        heads = getattr(self, self.name)
        read = [layer(x) for layer in self.read]
        q, k, v = read[0].chunk(3, -1) if self.fused else read
        q = q.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)
        k, v = (one.view(*x.shape[:2], self.groups, self.head_dim).transpose(1, 2) for one in (k, v))
        k, v = (one.repeat_interleave(self.repeats, 1) for one in (k, v))
        match self.product:
            case "fused":
                y = functional.scaled_dot_product_attention(q, k, v)
            case "matmul":
                y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
            case "einsum":
                y = torch.einsum(
                    "bhqk,bhkd->bhqd", functional.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k), -1), v
                )
            case _:
                q, k, v = (one.flatten(0, 1) for one in (q, k, v))
                y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v).unflatten(0, (-1, heads))
        out: Tensor = self.write(y.transpose(1, 2).reshape(*x.shape[:2], self.inner))
        return out


class Blocks(nn.Module):
    """Two blocks of attention on a normalised stream."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(5, 10), nn.Linear(10, 3)
        self.blocks = nn.ModuleList(make() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + block(norm(x))
        out: Tensor = self.last(x.mean(1))
        return out


@pytest.mark.parametrize("name", ["num_heads", "n_heads", "heads", "n_head", "h"])
@pytest.mark.parametrize("product", ["fused", "matmul", "einsum", "bmm"])
def test_heads_are_found_whatever_their_number_is_called(name: str, product: str) -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(
        Blocks(lambda: Own(name, product, product == "matmul")).eval(), torch.randn(2, 7, 5)
    )
    assert sizes(network.structures) == {"blocks.0.read.0": 4, "blocks.1.read.0": 4}
    assert removal_error(network, torch.randn(3, 11, 5), seed=1) < 1e-4


def test_the_integers_follow_and_others_stay() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Blocks(lambda: Own("heads", "fused", False)).eval(), torch.randn(2, 7, 5))
    small: Any = compact(network, {"theta.blocks.0.read.0": torch.tensor([False, True, False, True])})
    assert (small.blocks[0].heads, small.blocks[0].inner, small.blocks[0].groups) == (2, 6, 2)
    assert (small.blocks[0].head_dim, small.blocks[0].repeats, small.blocks[1].heads) == (3, 1, 4)


def test_a_group_of_queries_leaves_with_its_keys_and_values() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(
        Blocks(lambda: Own("heads", "fused", False, groups=2)).eval(), torch.randn(2, 7, 5)
    )
    assert sizes(network.structures) == {"blocks.0.read.0": 2, "blocks.1.read.0": 2}
    assert removal_error(network, torch.randn(3, 11, 5), seed=0) < 1e-4
    small: Any = compact(network, {"theta.blocks.0.read.0": torch.tensor([False, True])})
    assert (small.blocks[0].heads, small.blocks[0].groups, small.blocks[0].repeats) == (2, 1, 2)


class Patched(nn.Module):
    """Integers that are read on the way are as large by chance as the number of heads, and of their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.farthest = 4, 24
        self.block = Own("heads", "fused", False)
        self.embed, self.last = nn.Linear(4, 10), nn.Linear(10, 3)
        self.distances = nn.Embedding(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (x.shape[1] // self.patch, 4)))
        places = self.distances(torch.arange(x.shape[1]).clamp(max=self.farthest))
        out: Tensor = self.last((x + self.block(x + places)).mean(1))
        return out


def test_integers_that_are_as_large_by_chance_stay() -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Patched().eval(), torch.randn(2, 16))
    assert sizes(network.structures)["block.read.0"] == 4
    small: Any = compact(network, {"theta.block.read.0": torch.arange(4) > 1})
    assert (small.patch, small.farthest, small.block.heads, small.block.inner) == (4, 24, 2, 6)


class Masked(nn.Module):
    """Cross-attention by ``nn.MultiheadAttention`` with masks and weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, **options)

    def forward(self, x: Tensor, y: Tensor, **options: Any) -> Any:
        return self.attention(x, y, y, **options)


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 7, "vdim": 7}], ids=str
)
@pytest.mark.parametrize("asked", [{}, {"need_weights": False}, {"average_attn_weights": False}], ids=str)
def test_explicit_attention_is_multihead_attention(options: dict[str, Any], asked: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = Masked(**options).eval()
    explicit: Any = copy.deepcopy(net)
    make_explicit_(explicit)
    assert isinstance(explicit.attention, ExplicitAttention)
    x, y = torch.randn(3, 5, 12), torch.randn(3, 6, options.get("kdim", 12))
    if not options.get("batch_first"):
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[0, 4:] = True
    for masks in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": torch.randn(5, 6)},
        {"attn_mask": torch.randn(12, 5, 6), "key_padding_mask": padding.float()},
    ):
        for one, other in zip(net(x, y, **masks, **asked), explicit(x, y, **masks, **asked), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    unbatched = (x[0], y[0]) if options.get("batch_first") else (x[:, 0], y[:, 0])
    torch.testing.assert_close(net(*unbatched)[0], explicit(*unbatched)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_heads_of_a_transformer_encoder_leave(fast: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=fast, norm_first=not fast)
    net: Any = nn.Sequential(
        nn.Linear(5, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)
    )
    net.eval()
    x = torch.randn(3, 6, 5)
    with torch.no_grad():
        before = net(x)
        network = NoisyNetwork(net, x)
        torch.testing.assert_close(net(x), before, rtol=0, atol=1e-6)
    assert sizes(network.structures) == {
        f"1.layers.{i}.{name}": size
        for i in range(2)
        for name, size in (("self_attn.q_proj", 4), ("linear1", 12))
    }
    assert removal_error(network, torch.randn(2, 9, 5), seed=2) < 1e-4


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        self.words, self.encoder, self.last = (
            nn.Embedding(9, 8),
            nn.TransformerEncoder(layer, 2),
            nn.Linear(8, 3),
        )

    def forward(self, words: Tensor) -> Any:
        padding = words == 0
        read = self.encoder(self.words(words), src_key_padding_mask=padding)
        return self.last((read * ~padding.unsqueeze(-1)).sum(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_transformer_encoder_reads_padded_sequences_in_both_modes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    net = Padded().eval()
    with torch.no_grad():
        before = net(words)
        network = NoisyNetwork(net, words)
        keep = {family.name: torch.arange(family.size) % 3 > 0 for family in network.structures}
        torch.testing.assert_close(network(words), before)
        expected = network(words, {name: mask.float() for name, mask in keep.items()})
        small = compact(network, keep)
        torch.testing.assert_close(small(words), expected)
        save(small, tmp_path / "small.safetensors")
        torch.testing.assert_close(load(tmp_path / "small.safetensors", Padded())(words), expected)


def test_looking_leaves_multihead_attention_as_it_is() -> None:
    net: Any = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
    find_structures(net, torch.randn(2, 3, 8))
    assert type(net.self_attn) is nn.MultiheadAttention


@pytest.mark.filterwarnings("ignore")
def test_heads_of_layers_with_a_common_owner_are_not_tied() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net = models.VisionTransformer(
        16, 4, 2, 4, 12, 20, num_classes=3
    )  # patches are as large as heads are many
    nn.init.normal_(net.heads.head.weight)
    network = NoisyNetwork(net.eval(), torch.randn(2, 3, 16, 16))
    assert sizes(network.structures) == {
        f"encoder.layers.encoder_layer_{layer}.{name}": size
        for layer in range(2)
        for name, size in (("self_attention.q_proj", 4), ("mlp.0", 20))
    }
    assert removal_error(network, torch.randn(3, 3, 16, 16), seed=1) < 1e-4


TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40,
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8
}  # fmt: skip
# class, configuration, heads or groups of them per block, image or text
HUGGING_FACE: dict[str, tuple[str, dict[str, Any], int]] = {
    "Bert": ("ForSequenceClassification", TEXT, 4),
    "DistilBert": (
        "ForSequenceClassification",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
        4,
    ),
    "Llama": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2}, 2),
    "Mistral": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2}, 2),
    "Qwen3": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2, "head_dim": 8}, 2),
    "GPT2": (
        "LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "eos_token_id": 2},
        4,
    ),
    "ViT": ("ForImageClassification", {**IMAGE, "intermediate_size": 48}, 4),
    "Dinov2": ("ForImageClassification", IMAGE, 4),
    "ModernBert": (
        "ForSequenceClassification",
        {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        4,
    ),
    "Swin": (
        "ForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2], "num_heads": [4], "window_size": 4},
        4,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_heads_of_hugging_face_networks_leave(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers, a test extra, is not installed")
    suffix, config, heads = HUGGING_FACE[name]
    torch.manual_seed(0)
    net = getattr(transformers, name + suffix)(getattr(transformers, f"{name}Config")(**config)).eval()
    for parameter in net.parameters():
        if parameter.dim() > 1:  # far from uniform attention
            parameter.data.normal_(std=0.2)

    def draw(batch: int, length: int) -> Tensor:
        if "Image" in suffix:
            return torch.randn(batch, 3, 32, 32)
        return torch.randint(3, 99, (batch, length))

    network = NoisyNetwork(net, draw(2, 9))
    attention = [family for family in network.structures if family.size == heads]
    assert len(attention) == 2
    assert len(network.structures) >= 4  # the inner neurons too
    random = torch.Generator().manual_seed(3)
    keep = {f.name: torch.rand(f.size, generator=random) < 0.6 for f in network.structures}
    for mask in keep.values():
        mask[1] = True
    theta = {one: mask.float() for one, mask in keep.items()}
    x = draw(3, 14)
    with torch.no_grad(), network.gates.open(theta):
        expected = net(x).logits
    with torch.no_grad():
        actual = compact(network, keep)(x).logits
    assert relative_error(expected, actual) < 1e-4


class Gated(nn.Module):
    """Gated units, in one of several layouts."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout, self.sizes = layout, [4, 6]
        self.first = nn.Linear(5, {"uneven": 10, "swapped": 12}.get(layout, 12))
        self.last = nn.Linear(10 if layout == "uneven" else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        match self.layout:
            case "glu":
                y = functional.glu(y)
            case "swapped":
                gate, y = y.chunk(2, -1)
                y = y * gate.sigmoid()
            case "uneven":
                y = torch.cat([one.tanh() for one in (y[..., 4:], y[..., :4])], -1)
        out: Tensor = self.last(y)
        return out


@pytest.mark.parametrize(("layout", "size"), [("glu", 6), ("swapped", 6)])
def test_gated_units_leave(layout: str, size: int) -> None:
    torch.manual_seed(0)
    network = NoisyNetwork(Gated(layout), torch.randn(2, 5))
    assert sizes(network.structures) == {"first": size}
    assert removal_error(network, torch.randn(4, 5), seed=1) < 1e-5


def test_splits_at_constants_are_left_out() -> None:
    assert not find_structures(Gated("uneven"), torch.randn(2, 5))


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_of_group_norm_leave_whole(groups: int) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(
        nn.Conv2d(2, 12, 3),
        nn.GroupNorm(groups, 12),
        nn.ReLU(),
        nn.Conv2d(12, 4, 3),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()
    network = NoisyNetwork(net, torch.randn(2, 2, 8, 8))
    assert sizes(network.structures) == {"0": groups, "3": 4}
    assert removal_error(network, torch.randn(3, 2, 8, 8), seed=1) < 1e-4
    small: Any = compact(network, {"theta.0": torch.arange(groups) > 0})
    assert (small[1].num_groups, small[1].num_channels) == (groups - 1, 12 - 12 // groups)


def test_frozen_batch_norm_is_carried() -> None:
    misc = pytest.importorskip("torchvision.ops.misc")
    net = nn.Sequential(nn.Conv2d(2, 5, 3), misc.FrozenBatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3))
    network = NoisyNetwork(net, torch.randn(2, 2, 8, 8))
    assert sizes(network.structures) == {"0": 5}
    assert removal_error(network, torch.randn(3, 2, 9, 9), seed=1) < 1e-5


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bf,efg->bg", x, self.weight)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Experts(), "Experts 'rnn' has weights of its own (weight), for several layers in one tensor"),
        (nn.RNNCell(4, 6), "RNNCell 'rnn' has weights of its own (weight_ih, weight_hh), not in layers"),
        (nn.Bilinear(4, 4, 3), "Bilinear 'rnn' has weights of its own (weight), not in layers"),
    ],
)
def test_what_stays_is_named_with_its_layer(layer: nn.Module, reason: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rnn = nn.Linear(3, 4), layer
            self.last = nn.Linear(3 if isinstance(layer, nn.Bilinear) else 6, 2)

        def forward(self, x: Tensor) -> Any:
            x = self.first(x)
            return self.last(self.rnn(x, x) if isinstance(self.rnn, nn.Bilinear) else self.rnn(x[:, 0]))

    left_out = dict(find_structures(Net(), torch.randn(2, 5, 3)).left_out)
    assert left_out["theta.rnn"] == reason
    assert "'rnn'" in left_out["theta.first"]


@pytest.mark.parametrize("scaled", [True, False])
def test_wide_heads_of_every_layer_are_found(scaled: bool) -> None:
    """The product of a query and a key of 64 channels and more is so large that a sigmoid of it is flat."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(256, 256) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (one(x).unflatten(-1, (-1, 128)).transpose(1, 2) for one in (self.q, self.k, self.v))
            scores = q @ k.transpose(-1, -2)
            weights = (scores / 128**0.5 if scaled else scores).softmax(-1)
            out = functional.scaled_dot_product_attention(q, k, v) if scaled else weights @ v
            return x + self.o(out.transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    net = nn.Sequential(*[Block() for _ in range(6)], nn.Linear(256, 3))
    found = find_structures(net, torch.randn(2, 7, 256))
    assert [family.size for family in found] == [2] * 6


class Tabled(nn.Module):
    """Attention with a bias per head, which is kept in evaluation mode until the mode is set, as LeViT's is."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.kept = 4, dict[str, Tensor]()
        self.read, self.write = nn.Linear(10, 24), nn.Linear(8, 10)
        self.table = nn.Parameter(torch.randn(4, 9))

    def train(self, mode: bool = True) -> Tabled:
        self.kept = {}
        return super().train(mode)

    def bias(self, length: int) -> Tensor:
        if self.training:
            return self.table[:, :length]
        return self.kept.setdefault("bias", self.table[:, :length])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x).unflatten(-1, (self.num_heads, 6)).transpose(1, 2).split(2, -1)
        y = (q @ k.transpose(-1, -2) + self.bias(x.shape[1]).unsqueeze(1)).softmax(-1) @ v
        return x + self.write(y.transpose(1, 2).flatten(2))


def test_tables_that_layers_compute_and_keep_are_computed_again() -> None:
    torch.manual_seed(0)
    tabled = Tabled()
    net = nn.Sequential(tabled, nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(3, 5, 10)
    net(x)  # from now on its bias is kept
    network = NoisyNetwork(net, x)
    assert sizes(network.structures) == {"0.read": 4, "1": 8}
    for seed in range(3):
        assert removal_error(network, x, seed=seed) < 1e-5
    assert set(tabled.kept) == {"bias"}  # the network itself still has it
    keep = {"theta.0.read": torch.tensor([True, False, True, False])}
    expected = network(x, {name: mask.float() for name, mask in keep.items()})
    network.remove_(keep)
    assert relative_error(expected, network(x)) < 1e-5


def test_heads_are_called_heads_without_an_attribute_that_counts_them() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
            self.up, self.down = nn.Linear(16, 24), nn.Linear(12, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (one(x).unflatten(-1, (-1, 8)).transpose(1, 2) for one in (self.q, self.k, self.v))
            x = x + self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(functional.glu(self.up(x)))

    torch.manual_seed(0)
    found = find_structures(Block(), torch.randn(2, 5, 16))
    assert [family.label for family in found] == ["q, 2 heads", "up, 12 neurons"]


class CrossCovariance(nn.Module):
    """Attention between channels, with a temperature per head, as XCiT's."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 3
        self.read, self.write = nn.Linear(10, 36), nn.Linear(12, 10)
        self.temperature = nn.Parameter(torch.rand(4, 1, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.read(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 4, 1)
        q, k, v = functional.normalize(parts[0], dim=-1), functional.normalize(parts[1], dim=-1), parts[2]
        y = (q @ k.transpose(-1, -2) * self.temperature).softmax(-1) @ v
        return x + self.write(y.permute(0, 3, 1, 2).flatten(2))


def test_temperatures_leave_with_their_heads() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(CrossCovariance(), nn.Linear(10, 3)).eval()
    network = NoisyNetwork(net, torch.randn(2, 7, 10))
    assert sizes(network.structures) == {"0.read": 4}
    assert removal_error(network, torch.randn(3, 9, 10), seed=0) < 1e-5
    small: Any = compact(network, {"theta.0.read": torch.tensor([True, False, True, False])})
    torch.testing.assert_close(small[0].temperature, net[0].temperature[::2])
