"""The small network: gains folded in, structures cut out, nothing of this package left in it."""

from __future__ import annotations

__all__ = ["compact"]

from collections.abc import Mapping

from torch import Tensor, nn

from bmrs_pyro.network.folding import compact_
from bmrs_pyro.network.gates import Gates, refuse_no_gains
from bmrs_pyro.network.noisy import NoisyNetwork
from bmrs_pyro.network.recurrent import lay_out_
from bmrs_pyro.network.untouched import shared_copy


def compact(
    network: NoisyNetwork, keep: Mapping[str, Tensor], theta: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return a small plain network, in evaluation mode, that computes what ``network(x, theta * keep)`` does.

    W[:, c] ← θ_c W[:, c] in every consumer of structure c, then the channels of removed structures are cut out
    of all layers. The argument is not changed. Call ``.train()`` to train the small network further.

    Args:
        network: the network with gains.
        keep: mask ``(C,)`` per family, True for what stays; families not named stay whole.
        theta: gains ``(C,)`` per family, such as posterior means; those not named are 1.

    Raises:
        ValueError: masks or gains are of unknown families, have another length, a mask keeps nothing, or a gain is
            NaN or infinite.
        TypeError: the network has no gains, a mask is not boolean, or gains are no tensors by name.
    """
    if not isinstance(network, NoisyNetwork):
        raise TypeError(
            f"network is a {type(network).__name__}; give a NoisyNetwork, which knows the structures and their gains"
        )
    theta = {} if theta is None else theta
    refuse_no_gains(theta)
    sizes = {family.name: family.size for family in network.structures}
    for name, gain in theta.items():
        if gain.shape != (sizes.get(name),):
            raise ValueError(
                f"the gains of {name!r} have shape {tuple(gain.shape)}; expected (C,), one per structure, "
                f"with the families {sizes}"
            )
        if not gain.isfinite().all():
            raise ValueError(f"the gains of {name!r} hold NaN or infinity")
    small = shared_copy(network.net)
    Gates.detach_(small)
    compact_(small, network.structures, keep, theta)
    own = {parameter.data_ptr() for parameter in network.net.parameters()}
    for parameter in small.parameters():
        if parameter.data_ptr() in own:
            parameter.data = parameter.data.clone()
    lay_out_(small)
    return small.eval()
