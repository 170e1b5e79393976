"""Disjoint sets of labels."""

from __future__ import annotations

__all__ = ["Partition"]

from collections.abc import Iterable


class Partition:
    """Labels 0, 1, 2, … in disjoint sets that can be united (union–find with path halving).

    Args:
        parents: a parent per label, such as another partition's, to start from its sets.
    """

    def __init__(self, parents: Iterable[int] = ()) -> None:
        self.parents = list(parents)

    def new(self) -> int:
        """Open a set of one new label."""
        self.parents.append(len(self.parents))
        return self.parents[-1]

    def find(self, label: int) -> int:
        """Return the smallest label of a label's set, which represents the set."""
        parents = self.parents
        while parents[label] != label:
            parents[label] = label = parents[parents[label]]
        return label

    def join(self, labels: Iterable[int]) -> None:
        """Unite the sets of some labels."""
        roots = {self.find(label) for label in labels}
        if len(roots) > 1:
            smallest = min(roots)
            for root in roots:
                self.parents[root] = smallest
