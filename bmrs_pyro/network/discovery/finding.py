"""Find the structures that can be removed from a network without changing anything else."""

from __future__ import annotations

__all__ = ["Selection", "find_structures"]

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bmrs_pyro.network.discovery.head_counts import candidate_counts, settle_counts
from bmrs_pyro.network.discovery.labelling import Trace
from bmrs_pyro.network.discovery.proposal import propose
from bmrs_pyro.network.discovery.random_inputs import smaller_images
from bmrs_pyro.network.discovery.reasons import naming_noise
from bmrs_pyro.network.discovery.tracing import trace
from bmrs_pyro.network.discovery.verification import Verification
from bmrs_pyro.network.explicit_attention import make_explicit_
from bmrs_pyro.network.gates import Gates
from bmrs_pyro.network.inputs import Call, batch_size, other_type, unknown_names
from bmrs_pyro.network.kinds import compiled_layers, refuse_unfit, uncompiled
from bmrs_pyro.network.nested import is_empty
from bmrs_pyro.network.structures import LeftOut, StructureFamily, Structures
from bmrs_pyro.network.untouched import random_state_kept, runs, shared_copy, tensor_outputs

Selection = Callable[[str], bool] | Iterable[str]


def find_structures(
    net: nn.Module,
    *example_inputs: Any,
    include: Selection | None = None,
    exclude: Selection | None = None,
    trained: bool = False,
) -> Structures:
    """Find a network's structure families: channels, neurons and attention heads that can be removed.

    Gradients show which channels each layer reads. Each family is then tried on copies of the network with random
    weights and inputs: the outputs must respond to the kept structures, and must not change when channels with gain 0
    are cut out, few or most of them. A family that fails is listed in ``left_out`` with the reason. The network, its
    modes and the random state are not changed.

    The trials use values about as large as the example inputs. They do not detect a network that mixes channels only
    at larger values. Outputs are compared in evaluation mode; of training mode they only show that the smaller network
    runs. Only layers that the example inputs reach are seen. A warning names the layers with parameters
    that are reached neither in evaluation mode nor in training mode (where auxiliary classifiers run).

    Args:
        net: the network.
        *example_inputs: the arguments of a call, on any device; one or two examples suffice. If the last one is a dict
            whose keys are parameters of ``forward``, its items are passed by name.
        include: names of modules (each includes the modules inside it), or a predicate of a layer's name; a family
            is offered only if one of its producers is included.
        exclude: likewise; a family is left out if one of its producers is excluded.
        trained: find the structures for the reduction of a trained network. Among them are those that layer norms or
            RMS norms normalise over, such as the residual stream of a transformer. Their gains weigh the statistics of
            the norms, so only gains of 0 and 1 leave a plain network, and posteriors cannot be fitted. The channels of
            attention heads, the same in all heads, take the place of whole heads if a head has more channels than there
            are heads, and attention is torch's ``scaled_dot_product_attention``.

    Raises:
        ValueError: the network does not run on the example inputs, cannot be traced, is compiled, scripted, spread
            over devices or inside a NoisyNetwork, or ``include`` or ``exclude`` names a module it does not have.
        TypeError: it is no module, or its outputs hold an object that cannot be searched for tensors.
    """
    refuse_unfit(net)
    Gates.refuse_gated(net)
    call = Call.of(net, example_inputs).on(net)
    if batch_size(example_inputs) == 0:
        raise ValueError(f"the example inputs ({call}) hold no example; give one or two")
    included, excluded = _selector(net, include, "include"), _selector(net, exclude, "exclude")
    with (
        torch.inference_mode(False),
        random_state_kept(net),
        torch.enable_grad(),
        uncompiled(),
    ):
        call = call.map(lambda x: x.clone() if x.is_inference() else x)
        copy = shared_copy(net)
        make_explicit_(copy)
        idle = _choose_modes(copy, call)
        small = smaller_images(call)
        if small is not None and not runs(copy, small):
            small = None
        compiled = list(compiled_layers(net))

        def reason_against(family: StructureFamily) -> str | None:
            if include is not None and not any(map(included, family.producers)):
                return "not included"
            if exclude is not None and any(map(excluded, family.producers)):
                return "excluded"
            return _hidden(family, compiled)

        families, left_out = _verified(copy, call, small, reason_against, norms=trained, by_channel=trained)
    if idle and families:
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        warnings.warn(
            f"the example inputs do not reach {', '.join(map(repr, idle[:3]))}{more}: structures that these layers "
            "read are not protected from removal; give example inputs that reach them, or exclude their producers",
            stacklevel=2,
        )
    return Structures(families, left_out)


def _verified(
    net: nn.Module,
    call: Call,
    small: Call | None,
    reason_against: Callable[[StructureFamily], str | None],
    *,
    norms: bool,
    by_channel: bool,
) -> tuple[list[StructureFamily], list[LeftOut]]:
    """Return the families that pass every trial, and the others with the reason.

    Args:
        net: a copy of the network.
        call: how it is called.
        small: a call with smaller images, for the trace; None if there is none.
        reason_against: why a family is not wanted, or cannot have gains; None if it is offered.
        norms: follow channels through layer norms.
        by_channel: take the channels of attention heads apart; if one of them fails, take whole heads.
    """
    found = _traced(net, small or call, norms=norms, by_channel=by_channel)
    found.occurrences.extend(candidate_counts(net, call, found))
    proposed, left_out = propose(net, found)
    proposed = settle_counts(net, call, proposed)
    reasons = {family.name: reason_against(family) for family in proposed}
    left_out += [LeftOut(name, reason) for name, reason in reasons.items() if reason]
    wanted = [family for family in proposed if not reasons[family.name]]
    families, failed = Verification(net, call, small=small is not None, unread=found.unread).sift(wanted)
    if by_channel:
        kept = [*families, *(family for family in proposed if reasons[family.name])]
        if sum(bool(family.queries) for family in kept) < found.attentions_by_channel:
            return _verified(net, call, small, reason_against, norms=norms, by_channel=False)
    return families, [*left_out, *(naming_noise(net, call, failed) if failed else failed)]


def _traced(net: nn.Module, call: Call, **options: bool) -> Trace:
    """Trace copies of a network, because some networks cache what they compute.

    Inputs that are all zero would hide which weights multiply them, so they become random ones. The network's own code
    may refuse these, or buffers that require a gradient; then it is traced without both.
    """
    try:
        lively = call.map(_without_zeros)
        return trace(shared_copy(net).requires_grad_(True), lively, buffers=True, **options)
    except Exception:
        return trace(shared_copy(net).requires_grad_(True), call, buffers=False, **options)


def _without_zeros(x: Tensor) -> Tensor:
    if not x.is_floating_point() or x.any():
        return x
    return torch.empty_like(x).uniform_(0.2, 0.9, generator=torch.Generator(x.device).manual_seed(0))


def _selector(net: nn.Module, selection: Selection | None, argument: str) -> Callable[[str], bool]:
    if selection is None:
        return lambda name: True
    if callable(selection):
        return selection
    if isinstance(selection, str):
        selection = [selection]
    prefixes = set(selection)
    if unknown := prefixes - {name for name, _ in net.named_modules()}:
        raise ValueError(f"{argument} names modules the network does not have: {', '.join(sorted(unknown))}")
    return lambda name: any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _hidden(family: StructureFamily, compiled: Sequence[str]) -> str | None:
    for consumer in family.consumers:
        for name in compiled:
            if f"{consumer.module}.".startswith(f"{name}."):
                return f"{consumer.module!r} reads them in compiled code, which has no place for gains"
    return None


def _choose_modes(net: nn.Module, call: Call) -> list[str]:
    """Put a network into the mode that runs most of its layers, with nothing random.

    That is evaluation mode. If training mode runs more layers (auxiliary classifiers), it is training mode
    for modules that contain others and evaluation mode for the leaves.

    Returns:
        Names of the layers that stay idle.
    """
    net.eval()
    try:
        idle = _idle_layers(net, call)
    except Exception as error:
        advice = other_type(net, (call.args, call.kwargs), error) or (
            f"give inputs as the network is called with{unknown_names(net, call)}, or check the sizes of its layers"
        )
        raise ValueError(
            f"the network does not run on the example inputs ({call}): {_failing_layer(net, call)}"
            f"{type(error).__name__}: {error}; {advice}"
        ) from error
    with torch.no_grad():
        tensor_outputs(net, call)  # what cannot be searched for tensors is refused here
    if not idle:
        return idle
    for module in net.modules():
        module.training = any(True for _ in module.children())
    try:
        fewer = _idle_layers(net, call)
    except Exception:
        fewer = idle
    if set(fewer) < set(idle):
        return fewer
    net.eval()
    return idle


@torch.no_grad()
def _failing_layer(net: nn.Module, call: Call) -> str:
    """Name the innermost module in which a forward pass fails, and the shapes that it was given."""
    names = {module: name for name, module in net.named_modules()}
    entered: list[str] = []

    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        shapes = ", ".join(str(tuple(x.shape)) for x in args if isinstance(x, Tensor))
        where = f"{type(module).__name__} '{names[module]}' was given {shapes or 'no tensor'}; "
        entered.append(where if module is not net else "")

    def leave(*_: object) -> None:
        entered.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        call.fresh(net)
    except Exception:
        return entered[-1] if entered else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""


@torch.no_grad()
def _idle_layers(net: nn.Module, call: Call) -> list[str]:
    """Name the layers that a forward pass calls without rows, or neither calls nor uses the parameters of."""
    called: dict[nn.Module, bool] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        called[module] = called.get(module, False) or not is_empty(output)

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    try:
        with _Operands() as operands:
            call.fresh(net)
    finally:
        for hook in hooks:
            hook.remove()
    idle = []
    for name, module in net.named_modules():
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        if own and not (called[module] if module in called else own & operands.seen):
            idle.append(name)
    return idle


class _Operands(TorchDispatchMode):
    """Records the identity of every tensor that is passed to an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.seen.update(map(id, tree_leaves((args, kwargs))))
        return func(*args, **kwargs)
