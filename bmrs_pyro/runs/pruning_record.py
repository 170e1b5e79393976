"""How a finished run was pruned again, as written to ``reduction.json``."""

from __future__ import annotations

__all__ = ["PruningRecord"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bmrs_pyro.files import from_record
from bmrs_pyro.path import Target
from bmrs_pyro.runs.config import with_unit


@dataclass(frozen=True)
class PruningRecord:
    """How the small network of a run was made from its posteriors, after the run.

    Attributes:
        options: the options of ``bmrs prune``, by name; None for those that were not given.
        target: the target of the network that was pruned, if it was chosen from a path.
        caution: says that the small network is much worse than the network before; None if it is not.
    """

    options: Mapping[str, Any]
    target: Target | None = None
    caution: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> PruningRecord:
        """Read a record that :meth:`to_json` returned.

        Raises:
            ValueError: the record is malformed.
        """
        return from_record(cls, {**record, "target": with_unit(record.get("target"))})
