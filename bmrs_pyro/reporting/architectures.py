"""Surveys: which structures of a network can be removed, and whether the removal is exact."""

from __future__ import annotations

__all__ = ["Survey", "awake", "markdown_table", "removal_error", "survey", "survey_table"]

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision import models

from bmrs_pyro.network import LeftOut, NoisyNetwork, compact, find_structures, reachable
from bmrs_pyro.network.inputs import Call
from bmrs_pyro.network.untouched import deep_copy, tensor_outputs
from bmrs_pyro.runs import NetworkSource
from bmrs_pyro.training import reestimate_batch_norm_


@dataclass(frozen=True)
class Survey:
    """The structures found in a network.

    Attributes:
        parameters: number of weights.
        families: number of structure families that can be removed from.
        structures: number of structures in these families.
        reachable: share of the parameters that belong to a structure.
        seconds: wall-clock time of :func:`bmrs_pyro.find_structures`.
        error: :func:`removal_error` of half of the structures.
        left_out: families that nothing can be removed from, with the reason.
        refusal: why the network cannot be used at all; None if it can.
    """

    parameters: int
    families: int = 0
    structures: int = 0
    reachable: float = 0.0
    seconds: float = 0.0
    error: float = 0.0
    left_out: tuple[LeftOut, ...] = ()
    refusal: str | None = None


def survey(net: nn.Module, *inputs: Tensor) -> Survey:
    """Look for structures in a network, and remove half of them at random from a copy of it.

    Args:
        net: the network, trained or not; it is not changed.
        *inputs: its inputs, at least two examples.
    """
    parameters = sum(weight.numel() for weight in net.parameters())
    start = time.perf_counter()
    try:
        found = find_structures(net, *inputs)
    except ValueError as error:
        return Survey(parameters, refusal=str(error))
    seconds = time.perf_counter() - start
    if not found:
        return Survey(
            parameters, seconds=seconds, left_out=found.left_out, refusal="no family can be removed"
        )
    network = NoisyNetwork(awake(net), *inputs, structures=found)
    return Survey(
        parameters,
        families=len(found),
        structures=sum(family.size for family in found),
        reachable=reachable(network.net, found) / parameters,
        seconds=seconds,
        error=removal_error(network, *inputs),
        left_out=found.left_out,
    )


@torch.no_grad()
def removal_error(network: NoisyNetwork, *inputs: Tensor, seed: int = 0) -> float:
    """Return the error of the small network relative to the difference of the outputs for two examples.

    max |compact(x) − network(x, θ ⊙ keep)| / max |network(x₁, θ ⊙ keep) − network(x₂, θ ⊙ keep)|, the largest over
    all outputs. Each structure is kept with probability ½, at least one of each family. The gains of kept structures
    are around √2, which preserves the size of the signal.

    Args:
        network: a network with gains, in evaluation mode; its batch norms are re-estimated with these gains.
        *inputs: its inputs, at least two examples.
        seed: seed of the random masks and gains.
    """
    random = torch.Generator().manual_seed(seed)
    keep, theta = {}, {}
    for family in network.structures:
        kept = torch.rand(family.size, generator=random) < 0.5
        kept[0] = True
        keep[family.name] = kept
        theta[family.name] = torch.empty(family.size).uniform_(0.9, 1.9, generator=random)
    masked = {name: gain * keep[name] for name, gain in theta.items()}
    call = Call.of(network.net, inputs)
    with network.gates.open(masked):
        reestimate_batch_norm_(network.net, [(inputs, None)])  # or the signal may vanish
        expected = tensor_outputs(network.net, call)
    actual = tensor_outputs(compact(network, keep, theta), call)
    errors = [_relative_error(small, whole) for small, whole in zip(actual, expected, strict=True)]
    return float(torch.stack(errors).max())  # unlike Python's max, this returns NaN if there is one


def _relative_error(small: Tensor, whole: Tensor) -> Tensor:
    error, spread = (small - whole).abs().max(), (whole[0] - whole[1]).abs().max()
    return (error / spread).where(error != 0, error)  # an output may be the same for all examples


@torch.no_grad()
def awake(net: nn.Module) -> nn.Module:
    """Copy a network, in evaluation mode, with noise on constant weights: initial zeros would hide whole branches."""
    awake = deep_copy(net)
    random = torch.Generator().manual_seed(0)
    for weight in awake.parameters():
        if bool((weight == weight.flatten()[0]).all()):
            weight.add_(0.1 * torch.randn(weight.shape, generator=random).to(weight))
    return awake.eval()


def survey_table(surveys: Mapping[str, Survey]) -> str:
    """Return surveys as Markdown: a table with a row per network, then each network's omitted families and why."""
    rows = [["network", "parameters", "families", "structures", "reachable", "seconds", "error"]]
    for name, one in surveys.items():
        cells = [name, f"{one.parameters:,}"]
        if one.refusal is None:
            cells += [str(one.families), f"{one.structures:,}", f"{one.reachable:.1%}"]
            cells += [f"{one.seconds:.1f}", f"{one.error:.0e}"]
        else:
            cells += [f"refused: {one.refusal}", "", "", "", ""]
        rows.append(cells)
    lines = [markdown_table(rows)]
    for name, one in surveys.items():
        if one.left_out:
            by_reason: dict[str, list[str]] = defaultdict(list)
            for family, reason in one.left_out:
                by_reason[reason].append(family)
            lines += [f"`{name}` leaves out", ""]
            lines += [f"- {_listed(families)}: {reason}" for reason, families in by_reason.items()]
            lines.append("")
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as Markdown; the first row has the titles."""
    head, *others = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *others]) + "\n"


def _listed(families: list[str]) -> str:
    shown = ", ".join(f"`{family}`" for family in families[:3])
    return shown if len(families) <= 3 else f"{shown} and {len(families) - 3} more"


def survey_source(spec: str) -> Survey:
    """Survey the network of a source, as :class:`bmrs_pyro.runs.NetworkSource` takes it, at its usual input size."""
    torch.manual_seed(0)
    source = NetworkSource(spec)
    size = source.input_size() or _trained_size(spec)
    return survey(source.build((3, size, size), 10), torch.randn(4, 3, size, size))


def smallest_members() -> list[str]:
    """Return the smallest network of every torchvision family for image classification.

    A family is the first part of a name, up to digits or a size: ``resnet``, ``resnext``, ``mobilenet_v3``, …
    """
    families: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        match = re.match(r"[a-z]+(_v\d)?", name)
        family = match.group() if match else name
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        families[family] = min(families.get(family, (size, name)), (size, name))
    return [f"torchvision:{name}" for _, (_, name) in sorted(families.items())]


def _trained_size(spec: str) -> int:
    """Return the input height and width of torchvision's trained weights; 224 for other networks."""
    zoo, _, name = spec.partition(":")
    if zoo != "torchvision" or name not in models.list_models():
        return 224
    return models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
