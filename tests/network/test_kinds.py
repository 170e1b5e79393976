"""Scripted, compiled, lazy, parametrized, masked and replicated networks: they work, or a line says what to do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from bmrs_pyro.network import NoisyNetwork, compact, find_structures
from bmrs_pyro.runs import load, save
from tests.network.networks import chain, mlp
from tests.network.test_discovery import reasons, sizes

IMAGE = torch.randn(2, 2, 8, 8)
Make = Callable[[nn.Module], nn.Module]


def compiled(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def scripted(net: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        script: nn.Module = torch.jit.script(net)
    return script


def lazy(_: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 3))


def replicated(net: nn.Module) -> nn.Module:
    many = nn.DataParallel(net)
    many.device_ids = [0]  # as on a machine with a GPU
    return many


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            scripted,
            "the network is TorchScript, which cannot be cut; give the Python module it was made from",
        ),
        (
            lambda net: nn.Sequential(scripted(net), nn.Linear(3, 2)),
            "layer '0' is TorchScript, which cannot be cut; give the Python module it was made from",
        ),
        (lambda net: torch.compile(net, backend="eager"), "give it as it was before torch.compile"),
        (compiled, "give it as it was before torch.compile"),
        (lazy, "layer '0' is a LazyLinear, without a size yet; call the network once before"),
        (
            replicated,
            "the network is a DataParallel; give its .module, and train on several GPUs under torchrun",
        ),
        (lambda net: nn.Sequential(replicated(net)), "layer '0' is a DataParallel; give its .module"),
    ],
    ids=["script", "inner script", "compiled", "compiled in place", "lazy", "replicated", "inner replicated"],
)
def test_a_line_says_what_to_give(make: Make, line: str) -> None:
    net, x = make(mlp()), torch.randn(2, 6)
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        find_structures(net, x)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape(line)):
        NoisyNetwork(net, x, structures=find_structures(mlp(), x))


@pytest.mark.parametrize(("net", "kind"), [(lambda x: x, "function"), (mlp, "function"), (nn.Linear, "type")])
def test_what_is_no_network(net: Any, kind: str) -> None:
    for wrap in (find_structures, NoisyNetwork):
        with pytest.raises(TypeError, match=f"the network is a {kind}; give a torch.nn.Module"):
            wrap(net, torch.randn(2, 6))


def test_a_network_without_known_layers() -> None:
    with pytest.raises(ValueError, match=r"none of .* can be removed \(it has no layer that is known\)"):
        NoisyNetwork(nn.ReLU(), torch.randn(2, 6))


def test_layers_that_have_been_lazy() -> None:
    net: Any = lazy(nn.ReLU())
    net(torch.randn(2, 4))
    assert sizes(find_structures(net, torch.randn(2, 4))) == {"0": 5}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # within torch.compile
@pytest.mark.parametrize("whole", [False, True], ids=["in place", "module"])
def test_compiled_layers_read_no_gains(whole: bool) -> None:
    net: Any = mlp()
    inner = torch.compile(net[2], backend="eager") if whole else compiled(net[2])
    net[2] = inner
    x = torch.randn(2, 6)
    net(x)
    network = NoisyNetwork(net, x)
    (family,) = network.structures
    assert family.producers == ("2._orig_mod" if whole else "2",)
    assert "reads them in compiled code, which has no place for gains" in reasons(network.structures)["0"]
    theta = {family.name: torch.rand(family.size)}
    torch.testing.assert_close(compact(network, {}, theta)(x), network(x, theta))


MASKS = [
    (
        lambda layer: nn.utils.spectral_norm(layer),
        nn.utils.remove_spectral_norm,
        "remove_spectral_norm(layer, 'weight')",
    ),
    (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.remove(layer, "weight"),
        "prune.remove(layer, 'weight')",
    ),
    (
        lambda layer: parametrizations.orthogonal(layer),
        lambda layer: parametrize.remove_parametrizations(layer, "weight"),
        "parametrize.remove_parametrizations(layer, 'weight')",
    ),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("put", "remove", "advice"), MASKS, ids=["spectral norm", "masked", "parametrized"])
def test_computed_weights_stay_and_the_reason_says_how_they_need_not(
    put: Any, remove: Any, advice: str
) -> None:
    net: Any = chain(nn.Conv2d(5, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)).eval()
    put(net[2])
    net(IMAGE)  # the weight is now a tensor with a history
    network = NoisyNetwork(net, IMAGE)
    assert sizes(network.structures) == {"4": 6, "6": 6}
    assert all(advice in reasons(network.structures)[name] for name in ("0", "2"))
    theta = {family.name: torch.rand(family.size) for family in network.structures}
    keep = {name: torch.arange(6) % 2 > 0 for name in theta}
    masked = {name: gain * keep[name] for name, gain in theta.items()}
    torch.testing.assert_close(compact(network, keep, theta)(IMAGE), network(IMAGE, masked))
    plain: Any = chain(nn.Conv2d(5, 6, 3))
    put(plain[2])
    remove(plain[2])
    assert sizes(find_structures(plain, IMAGE)) == {"0": 5, "2": 6}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("put", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["old", "new"])
def test_weight_norm_becomes_a_plain_weight(put: Any, tmp_path: Path) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        net = chain(*(put(nn.Conv2d(5, 5, 3)) for _ in range(2)), put(nn.Conv2d(5, 6, 1))).eval()
        with torch.no_grad():
            net(IMAGE)  # the old kind of weight norm cannot be copied with a weight that has a history
        return net

    net = make()
    expected = net(IMAGE)
    network = NoisyNetwork(net, IMAGE)
    assert list(sizes(network.structures).values()) == [5, 5, 5, 6]
    torch.testing.assert_close(network(IMAGE), expected)
    keep = {family.name: torch.arange(family.size) % 2 > 0 for family in network.structures}
    small = compact(network, keep)
    torch.testing.assert_close(
        small(IMAGE), network(IMAGE, {name: mask.float() for name, mask in keep.items()})
    )
    save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(load(tmp_path / "small.safetensors", make())(IMAGE), small(IMAGE))


class Remembering(nn.Module):
    """Keeps what it computed last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = self.first(x).relu()
        self.several, self.named = [self.hidden * 2], {"hidden": self.hidden * 3}
        out: Tensor = self.last(self.hidden)
        return out


def test_a_network_that_keeps_what_it_computed() -> None:
    net, x = Remembering(), torch.randn(2, 6)
    hidden = net(x) is None or net.hidden
    network = NoisyNetwork(net, x)
    assert sizes(network.structures) == {"first": 5}
    assert net.hidden is hidden
    theta = {"theta.first": torch.rand(5)}
    y = network(x, theta)
    torch.testing.assert_close(compact(network, {}, theta)(x), y)


class Scaled(nn.Conv2d):
    """Standardises its weight and has a gain per output, as timm's ScaledStdConv2d."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__(inputs, outputs, width)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, self.gain * weight, self.bias)


class Standardised(nn.Conv2d):
    """Without the gain: its outputs can leave, its inputs cannot."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


class Padded(nn.Conv2d):
    """A forward of its own that computes a convolution, and a tensor that has no channels."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__(inputs, outputs, width)
        self.register_buffer("factor", torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 0, 1, 0))) * self.factor


@pytest.mark.parametrize(
    ("layer", "found"),
    [(Scaled, {"4": 6}), (Standardised, {"2": 5, "4": 6}), (Padded, {"0": 5, "2": 5, "4": 6})],
)
def test_subclasses_of_known_layers(layer: Any, found: dict[str, int]) -> None:
    net = chain(layer(5, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))
    structures = find_structures(net, IMAGE, exclude="6")
    assert sizes(structures) == found
    if layer is Scaled:
        reason = "'2' is a Scaled with a tensor of its own, 'gain', for its channels"
        assert (reasons(structures)["0"], reasons(structures)["2"]) == (reason, reason)


@pytest.mark.parametrize("name", ["ScaledStdConv2d", "ScaledStdConv2dSame", "StdConv2d"])
def test_convolutions_that_standardise_their_weights_become_plain(name: str, tmp_path: Path) -> None:
    kind: Any = getattr(pytest.importorskip("timm.layers"), name)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return chain(
            kind(5, 6, 3, padding=0), nn.ReLU(), kind(6, 4, 3, padding=1), nn.ReLU(), kind(4, 6, 1)
        ).eval()

    net = make()
    with torch.no_grad():
        expected = net(IMAGE)
        network = NoisyNetwork(net, IMAGE)
        assert list(sizes(network.structures).values()) == [5, 6, 4, 6]
        torch.testing.assert_close(network(IMAGE), expected, rtol=1e-5, atol=1e-5)
        keep = {family.name: torch.arange(family.size) % 2 > 0 for family in network.structures}
        masked = network(IMAGE, {family: mask.float() for family, mask in keep.items()})
        small = compact(network, keep)
        torch.testing.assert_close(small(IMAGE), masked)
        save(small, tmp_path / "small.safetensors")
        again = load(tmp_path / "small.safetensors", make())
        torch.testing.assert_close(again(IMAGE), small(IMAGE))


class Causal(nn.Conv2d):
    """Computes its weight by a mask, which training has to keep."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight * (torch.arange(3) < 2), self.bias)


def test_masked_convolutions_keep_their_mask() -> None:
    net: Any = chain(Causal(5, 6, 3))
    network: Any = NoisyNetwork(net, IMAGE)
    assert type(network.net[2]) is Causal


def test_an_embedding_that_rescales_whole_rows_stays_whole() -> None:
    def net(max_norm: float | None) -> nn.Module:
        table = nn.Embedding(20, 8, max_norm=max_norm)
        return nn.Sequential(table, nn.Flatten(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3))

    ids = torch.randint(20, (2, 5), generator=torch.Generator().manual_seed(0))
    assert [family.name for family in find_structures(net(None), ids)] == ["theta.0", "theta.2"]
    assert [family.name for family in find_structures(net(1.0), ids)] == ["theta.2"]


def test_inference_mode() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.inference_mode():
        found = find_structures(net, torch.zeros(1, 4))
        made = nn.Linear(4, 6)
    assert [family.size for family in found] == [6]
    with pytest.raises(
        ValueError, match=r"^the network was made in torch.inference_mode, .*make it outside$"
    ):
        find_structures(made, torch.zeros(1, 4))
