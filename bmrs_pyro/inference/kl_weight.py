"""The weight of the Kullback–Leibler term of each structure family in the ELBO."""

from __future__ import annotations

__all__ = ["KLWeight"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import bmrs_pyro.network as networks  # imports torch when it is used, not before

if TYPE_CHECKING:
    from bmrs_pyro.network import NoisyNetwork

_KINDS = ("elbo", "mean", "cost")
# what users write -> kind and cost
_NAMES = {
    **{kind: (kind, "parameters") for kind in _KINDS},
    "cost-parameters": ("cost", "parameters"),
    "cost-macs": ("cost", "macs"),
}


@dataclass(frozen=True)
class KLWeight:
    """The weight of each family's KL in an objective whose data term counts every example once.

    With N examples, F families of C_f structures and a family's share s_f of the cost (Σ s_f = 1), the
    sum of family f's KL values is multiplied by

    * ``"elbo"``: λ, the evidence lower bound itself for λ = 1;
    * ``"mean"``: λ N / (F C_f), that is mean cross-entropy + λ · mean over families of the mean KL
      (the objective of the published runs, times N);
    * ``"cost"``: λ N s_f / C_f, like ``"mean"``, but each family counts by its share of the cost.

    C_f is the family's size at the start: with the current size the pressure would grow as structures leave.

    Args:
        kind: ``"elbo"``, ``"mean"`` or ``"cost"``.
        factor: λ, positive.
        cost: what ``"cost"`` counts, ``"parameters"`` or ``"macs"``.

    Raises:
        ValueError: unknown kind or cost, a cost that the kind does not count, or a factor that is not positive and
            finite.
    """

    kind: str = "elbo"
    factor: float = 1.0
    cost: str = "parameters"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"KL weight {self.kind!r} is unknown; use one of {', '.join(_KINDS)}")
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"KL weight factor is {self.factor}; it must be positive and finite")
        if self.cost not in ("parameters", "macs"):
            raise ValueError(f"KL weight cost is {self.cost!r}; use 'parameters' or 'macs'")
        if self.kind != "cost" and self.cost != "parameters":
            raise ValueError(
                f"KL weight {self.kind!r} counts no cost; write KLWeight('cost', ..., {self.cost!r})"
            )

    @classmethod
    def parse(cls, value: KLWeight | str | float | tuple[str, float]) -> KLWeight:
        """Read ``"mean"``, ``("mean", 0.3)``, ``"mean:0.3"``, ``"cost-macs:0.3"`` or a number λ (of the ELBO).

        Raises:
            ValueError: the value is none of these, or the class refuses it.
        """
        if isinstance(value, KLWeight):
            return value
        name: Any = value
        factor: Any = 1.0
        if isinstance(value, str):
            name, colon, number = value.partition(":")
            factor = number if colon else 1.0
        elif isinstance(value, Real) and not isinstance(value, bool):
            name, factor = "elbo", value
        elif isinstance(value, tuple | list) and len(value) == 2:
            name, factor = value
        if not isinstance(name, str) or name not in _NAMES:
            also = "" if isinstance(value, str) else ", or ('mean', 0.3), or a number"
            raise ValueError(
                f"KL weight {name!r} is unknown; use {', '.join(_NAMES)}, alone or with a factor as in 'mean:0.3'{also}"
            )
        kind, cost = _NAMES[name]
        try:
            factor = float(factor)
        except (TypeError, ValueError):
            raise ValueError(
                f"KL weight {value!r}: {factor!r} is not a number; write e.g. 'mean:0.3'"
            ) from None
        return cls(kind, factor, cost)

    @property
    def name(self) -> str:
        """Kind and cost, as users write them: ``"cost-macs"``."""
        return f"{self.kind}-{self.cost}" if self.cost != "parameters" else self.kind

    def scales(self, network: NoisyNetwork, num_data: int) -> Mapping[str, float]:
        """Return the factor of each family's summed KL, keyed by site name."""
        sizes = {structure.name: structure.size for structure in network.structures}
        if self.kind == "elbo":
            return dict.fromkeys(sizes, self.factor)
        if self.kind == "mean":
            shares = dict.fromkeys(sizes, 1.0 / max(len(sizes), 1))
        else:
            shares = networks.cost_shares(network, self.cost)
        return {name: self.factor * num_data * shares[name] / size for name, size in sizes.items()}
