"""A sweep whose runs are made one after the other in the test's own process, where what it patched holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bmrs_pyro.experiments.sweep import Config, Sweep


class Here(Sweep):
    def execute(self, configs: Sequence[Config], *, progress: bool = True) -> list[dict[str, Any]]:
        self.cache.mkdir(parents=True, exist_ok=True)
        for one in configs:
            self.make(one)
        return self.results(configs)
