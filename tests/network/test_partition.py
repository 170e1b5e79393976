"""Disjoint sets against connected components found by flooding."""

from __future__ import annotations

import random

from bmrs_pyro.network.discovery.partition import Partition


def test_sets_are_connected_components() -> None:
    rng = random.Random(0)
    for _ in range(50):
        partition, edges = (
            Partition(),
            [(rng.randrange(30), rng.randrange(30)) for _ in range(rng.randrange(40))],
        )
        labels = [partition.new() for _ in range(30)]
        for edge in edges:
            partition.join(edge)
        for label in labels:
            component, before = {label}, 0
            while len(component) > before:
                before = len(component)
                component |= {end for edge in edges if component & set(edge) for end in edge}
            assert partition.find(label) == min(component)
            assert Partition(partition.parents).find(label) == min(component)
