"""Inner neurons of experts that are fused in one tensor leave exactly, in every layout that transformers has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrs_pyro.network import NoisyNetwork, compact, complexity, find_structures, reachable
from bmrs_pyro.runs import load, save
from tests.network.networks import relative_error

_MOE: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "num_experts_per_tok": 2, "max_position_embeddings": 20, "tie_word_embeddings": False,
}  # fmt: skip
# one after another in a row; beside each other in a column, with a bias; a shared expert beside them
_LAYOUTS: dict[str, dict[str, Any]] = {
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 12},
    "GptOss": {"num_local_experts": 4, "intermediate_size": 12, "layer_types": ["full_attention"]},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 8},
}


def network(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="transformers, a test extra, is not installed")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**_MOE, **_LAYOUTS[kind])
    net: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for weight in net.parameters():
        weight.data = weight.data + 0.1 * torch.randn(weight.shape)
    return net


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(30, (batch, length))


@pytest.mark.parametrize("kind", list(_LAYOUTS))
def test_neurons_of_fused_experts_leave_exactly(kind: str, tmp_path: Path) -> None:
    net = network(kind)
    whole, before = complexity(net, tokens(2, 7)), net(tokens(1, 5)).logits
    noisy = NoisyNetwork(net, tokens(2, 7))
    family = next(one for one in noisy.structures if one.layer.endswith("mlp.experts"))
    assert (family.size, family.kind) == (12, "neurons")
    assert noisy.recurs  # its gains are of a whole batch
    experts = net.get_submodule(family.layer)
    held = reachable(net, [family])
    assert held == sum(
        weight.numel() for name, weight in experts.named_parameters() if name != "down_proj_bias"
    )
    # computed one by one, they take as many operations as computed together
    assert complexity(net, tokens(2, 7)) == whole
    assert before.shape == (1, 5, 30)
    random = torch.Generator().manual_seed(1)
    keep = {one.name: torch.rand(one.size, generator=random) < 0.5 for one in noisy.structures}
    keep = {name: mask | (torch.arange(len(mask)) == 1) for name, mask in keep.items()}
    theta = {name: torch.rand(len(mask), generator=random) + 0.5 for name, mask in keep.items()}
    small = compact(noisy, keep, theta)
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", network(kind))
    for size in ((3, 7), (5, 11)):
        x = tokens(*size)
        expected = noisy(x, {name: gain * keep[name] for name, gain in theta.items()}).logits
        assert relative_error(expected, small(x).logits) < 1e-5
        assert torch.equal(again(x).logits, small(x).logits)
    assert isinstance(experts.down_proj, nn.Parameter)  # it has its own weights back


def test_gains_of_experts_get_gradients_and_are_not_per_example() -> None:
    net = network("Qwen3Moe")
    structures = [one for one in find_structures(net, tokens(2, 7)) if one.layer.endswith("experts")]
    noisy = NoisyNetwork(net, tokens(2, 7), structures=structures)
    gain = torch.ones(12, requires_grad=True)
    noisy(tokens(3, 7), {structures[0].name: gain}).logits.square().sum().backward()
    assert gain.grad is not None
    assert bool((gain.grad != 0).all())
    with pytest.raises(ValueError, match=r"give gains of shape \(C,\)"):
        noisy(tokens(3, 7), {structures[0].name: torch.ones(3, 12)})
