"""The decision: which structures of every family are kept."""

from __future__ import annotations

__all__ = ["KeepMask"]

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor


class KeepMask(Mapping[str, Tensor]):
    """Which structures are kept: a boolean mask of shape `(C,)` per family, by site name.

    Immutable plain data on the CPU: masks are copied when passed in and when read. `str()` gives a table.

    Args:
        masks: Site name to mask, True where the structure is kept.

    Raises:
        TypeError: A mask is not a boolean tensor of one dimension.
    """

    FORMAT = "bmrs_pyro.KeepMask"
    VERSION = 1

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.dim() != 1:
                got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
                raise TypeError(f"the mask of {name!r} must be a boolean tensor of shape (C,), got {got}")
        self._masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}

    @classmethod
    def from_scores(cls, scores: Mapping[str, Tensor], *, min_keep: int = 1) -> Self:
        """Keep the structures that score at most 0, and at least `min_keep` in every family.

        Args:
            scores: Site name to scores of shape `(C,)`.
            min_keep: Smallest number of structures that a family keeps, those with the lowest scores. If this
                overrules the scores, a warning names the family, unless it has no more than that.

        Raises:
            ValueError: `min_keep` is below 1, which would leave a layer empty.
        """
        if min_keep < 1:
            raise ValueError(f"min_keep must be at least 1, or a layer is left empty; got {min_keep}")
        masks = {}
        for name, family in scores.items():
            keep = family <= 0
            wanted = min(min_keep, len(family))
            if keep.sum() < wanted:
                if wanted < len(family):  # else it was said when the family came down to these
                    warnings.warn(
                        f"{name}: the scores keep {int(keep.sum())} of {len(family)} structures; "
                        f"min_keep={min_keep} keeps the {wanted} that score lowest",
                        stacklevel=3,
                    )
                keep[family.argsort(stable=True)[:wanted]] = True
            masks[name] = keep
        return cls(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeepMask):
            return NotImplemented
        return self.keys() == other.keys() and all(
            torch.equal(mask, other[name]) for name, mask in self.items()
        )

    def __hash__(self) -> int:
        return hash(frozenset((name, _bits(mask)) for name, mask in self.items()))

    @property
    def total(self) -> int:
        """Number of structures."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def kept(self) -> int:
        """Number of structures kept."""
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def removed(self) -> int:
        """Number of structures removed."""
        return self.total - self.kept

    def indices(self, name: str) -> Tensor:
        """Positions of a family's kept structures, ascending."""
        return self._masks[name].nonzero().squeeze(-1)

    def then(self, later: KeepMask) -> KeepMask:
        """Combine this selection with a later one among the structures it keeps, in this selection's numbering.

        Args:
            later: Masks over the structures this selection keeps; families that it does not name stay as they are.

        Raises:
            ValueError: `later` has an unknown family, or a mask whose length is not the number kept here.
        """
        masks = dict(self)
        for name, mask in later.items():
            if name not in masks:
                raise ValueError(f"the later selection has {name!r}, the earlier one only {sorted(masks)}")
            if len(mask) != masks[name].sum():
                raise ValueError(
                    f"{name}: the later selection is over {len(mask)} structures, the earlier one keeps "
                    f"{int(masks[name].sum())}"
                )
            masks[name][self.indices(name)] = mask
        return KeepMask(masks)

    def to_json(self) -> str:
        """One line of JSON: per family a string of 1 (kept) and 0."""
        keep = {name: _bits(mask) for name, mask in self.items()}
        return json.dumps({"format": self.FORMAT, "version": self.VERSION, "keep": keep})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not such JSON, or has another version.
        """
        try:
            record = json.loads(text)
            found, keep = (record["format"], record["version"]), record["keep"]
            if found != (cls.FORMAT, cls.VERSION):
                raise ValueError(f"expected format {cls.FORMAT!r} version {cls.VERSION}, got {found}")
            for name, bits in keep.items():
                if not re.fullmatch("[01]*", bits):
                    raise ValueError(f"the mask of {name!r} holds other characters than 0 and 1")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not the JSON of a KeepMask ({type(error).__name__}: {error})") from None
        return cls(
            {
                name: torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)
                for name, bits in keep.items()
            }
        )

    def __repr__(self) -> str:
        return f"KeepMask(families={len(self)}, kept={self.kept}, total={self.total})"

    def __str__(self) -> str:
        rows = [(name, int(mask.sum()), mask.numel()) for name, mask in self._masks.items()]
        rows.append(("total", self.kept, self.total))
        width = max(len(name) for name, *_ in rows)
        lines = [f"{'family':<{width}}  {'kept':>7}  {'of':>7}  removed"]
        lines += [f"{n:<{width}}  {k:>7}  {c:>7}  {(c - k) / max(c, 1):>7.1%}" for n, k, c in rows]
        return "\n".join(lines)


def _bits(mask: Tensor) -> str:
    return "".join(map(str, mask.int().tolist()))
