"""Networks that were not written for this package: removal is exact, and what cannot leave is named."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from bmrs_pyro.network import NoisyNetwork, compact
from bmrs_pyro.reporting import Survey, removal_error, smallest_members, survey
from bmrs_pyro.runs import NetworkSource

SMALL = [
    "torchvision:mnasnet0_5",
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_y_400mf",
    "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
]
OURS = ["models/resnet.py", "models/vgg.py", "models/vit.py"]
LARGE = [spec for spec in smallest_members() if spec not in SMALL]


def surveyed(spec: str, size: int) -> Survey:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision announces other initial weights
        net = NetworkSource(spec).build((3, size, size), 10)
    # enough values for batch-norm statistics where the last maps are small
    return survey(net, torch.randn(8 if size < 100 else 4, 3, size, size))


def check(found: Survey) -> None:
    assert found.refusal is None
    assert found.error < 1e-4
    assert found.reachable > 0.6
    for family, reason in found.left_out:
        assert family.startswith("theta.")
        assert reason


@pytest.mark.parametrize("spec", SMALL)
def test_small_member_of_torchvision_family(spec: str) -> None:
    check(surveyed(spec, 64))


@pytest.mark.parametrize("spec", OURS)
def test_recipe(spec: str) -> None:
    check(surveyed(spec, 32))


@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE)
def test_smallest_member_of_torchvision_family(spec: str) -> None:
    check(surveyed(spec, 299 if "inception" in spec else 224))


def test_families_of_torchvision_are_told_apart() -> None:
    names = smallest_members()
    assert len(names) >= 19
    assert {"torchvision:resnet18", "torchvision:resnext50_32x4d", "torchvision:wide_resnet50_2"} <= set(
        names
    )
    assert {"torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small"} <= set(names)


def test_removal_error_sees_a_removal_that_is_not_exact() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).eval()
    network = NoisyNetwork(net, torch.randn(2, 5))
    x = torch.randn(4, 5)
    assert removal_error(network, x) < 1e-5
    # a consumer that forgets its gate computes with all eight neurons
    net[2]._forward_pre_hooks.clear()
    assert removal_error(network, x) > 1e-2


@pytest.mark.parametrize("spec", ["models/vit.py", "timm:vit_tiny_patch16_224"])
def test_attention_loses_whole_heads_and_its_projections_shrink(spec: str) -> None:
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    size = 32 if spec.startswith("models") else 224
    net = NetworkSource(spec).build((3, size, size), 10).eval()
    x = torch.randn(2, 3, size, size)
    network = NoisyNetwork(net, x)
    heads = {family.name: family for family in network.structures if family.size in (3, 6)}
    assert len(heads) == len(net.blocks)  # type: ignore[arg-type]
    keep = {name: torch.arange(family.size) < 2 for name, family in heads.items()}
    small = compact(network, keep)
    (block,) = [block for name, block in small.named_modules() if name.endswith("blocks.0")]
    attention = getattr(block, "attention", None) or block.attn
    width = attention.proj.out_features
    assert attention.num_heads == 2
    assert attention.proj.weight.shape == (width, 2 * width // next(iter(heads.values())).size)
    masked = {name: mask.float() for name, mask in keep.items()}
    with torch.no_grad():
        torch.testing.assert_close(small(x), network(x, masked), rtol=1e-4, atol=1e-5)


RESNET50 = """
import resource, time, torch
torch.set_num_threads(1)
from torchvision.models import resnet50
from bmrs_pyro import NoisyNetwork, compact, find_structures
net, x = resnet50(), torch.randn(1, 3, 224, 224)
net.eval()
with torch.no_grad():
    net(x)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
network = NoisyNetwork(net, x, structures=find_structures(net, x))
keep = {family.name: torch.arange(family.size) % 2 == 0 for family in network.structures}
small = compact(network, keep)
seconds = time.perf_counter() - start
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(seconds, peak / sum(p.numel() * p.element_size() for p in net.parameters()))
"""


@pytest.mark.slow
def test_resnet50_takes_at_most_15_seconds_and_three_times_its_memory() -> None:
    run = subprocess.run([sys.executable, "-c", RESNET50], capture_output=True, text=True, check=True)
    seconds, share = map(float, run.stdout.split())
    assert seconds < 15
    assert share < 3
