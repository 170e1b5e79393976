"""What a run starts from: its configuration, the dense network and one example."""

from __future__ import annotations

__all__ = ["DENSE", "EXAMPLE", "SOURCE_COPY", "RunInputs"]

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from bmrs_pyro.network import NoisyNetwork, Structures
from bmrs_pyro.reduction import KeepMask
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.gained import gained
from bmrs_pyro.runs.portable import SIZES, restored
from bmrs_pyro.runs.run_files import example_of, read_record, read_tensors
from bmrs_pyro.runs.saved_choice import POSTERIORS, SMALL
from bmrs_pyro.runs.source import NetworkSource, SourceError

SOURCE_COPY, DENSE, EXAMPLE = "model.py", "dense.safetensors", "example.safetensors"


@dataclass(frozen=True)
class RunInputs:
    """What a run starts from.

    Args:
        path: the run's directory.
        trust_source: import the network's source (a module, or a file outside the directory) if the run has no copy of
            it. A copy inside the directory is always imported.
    """

    path: Path
    trust_source: bool = False

    @classmethod
    def opened(cls, path: Path, trust_source: bool = False) -> Self:
        """Return the run in a directory.

        Raises:
            RunError: no run was started there.
        """
        run = cls(path, trust_source)
        run.refuse_none()
        return run

    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._file("config.json").exists()

    def refuse_none(self) -> None:
        """Raise RunError if no run was started here."""
        if self.exists():
            return
        if not self.path.is_dir():
            what = "is a file" if self.path.exists() else "does not exist"
        elif (self.path / SMALL).exists():
            raise RunError(
                f"{self.path} is no run; it holds a network that save() wrote: bmrs_pyro.load({str(self.path)!r}, net) "
                "returns it"
            )
        elif (self.path / POSTERIORS).exists():
            raise RunError(
                f"{self.path / SMALL} is missing, but {POSTERIORS} is there: save() wrote the directory, and the "
                "network is lost; bmrs_pyro.load_posteriors still reads the posteriors"
            )
        else:
            what = "holds no config.json"
        raise RunError(
            f"{self.path} is no run: it {what}; bmrs fit NETWORK --out RUN makes one, and the result of prune() has "
            "save(), whose directory load() reads too"
        )

    @property
    def config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            RunError: no run was started here, or the file is damaged.
        """
        self.refuse_none()
        return read_record(self._file("config.json"), RunConfig.from_json)

    def source(self) -> NetworkSource:
        """Return the source of the dense network: the run's own copy of the file if there is one.

        Raises:
            SourceError: the copy is missing, or the source is code outside the directory and ``trust_source`` is False.
        """
        config, copy = self.config, self._file(SOURCE_COPY)
        if config.source_sha256 is None:
            source = NetworkSource(config.model)
        else:
            if not copy.exists():
                raise SourceError(
                    f"{copy} is missing; copy the network's file {config.model} there, or give the dense network: "
                    f"bmrs_pyro.load({str(self.path)!r}, net)"
                )
            source = NetworkSource(str(copy), config.source_sha256)
            if copy.resolve().parent == self.path.resolve():  # not a link to a file outside
                return source
        if source.imports and not self.trust_source:
            raise SourceError(source.consent(self.path))
        return source

    @property
    def dense_is_trained(self) -> bool:
        """Whether the run has trained weights of the dense network."""
        return self.config.weights is not None or self._file("path.json").exists()

    def dense(self) -> nn.Module:
        """Return the dense network: trained if the run has trained weights, else initialised with the run's seed."""
        config = self.config
        with torch.random.fork_rng():
            torch.manual_seed(config.recipe.seed or 0)
            net = self.source().build(config.input_shape, config.num_classes)
        if config.weights is None and not self._file(DENSE).exists():
            return net
        tensors, meta = read_tensors(self._file(DENSE))
        if SIZES in meta:
            return restored(self._file(DENSE), tensors, meta, net)
        net.load_state_dict(tensors)
        return net

    def example(self) -> Any:
        """Return the inputs of one example; zeros if the run has stored none."""
        stored = self.stored_example()
        return torch.zeros(1, *self.config.input_shape) if stored is None else stored

    def stored_example(self) -> Any:
        """Return the stored inputs of one example; None if they are one array of real numbers."""
        file = self._file(EXAMPLE)
        return example_of(read_tensors(file)[0]) if file.exists() else None

    def families(self) -> Structures:
        """Return the structure families of the dense network."""
        return self.noisy().structures

    def noisy(self, dense: nn.Module | None = None) -> NoisyNetwork:
        """Return the dense network, by default made from the run's source, with gains."""
        net = self.dense() if dense is None else dense
        file, trained = self._file("compact.safetensors"), self.config.cycle is not None
        finished = trained and file.exists()
        keep = KeepMask.from_json(read_tensors(file)[1]["keep"]) if finished else None
        return gained(net, self.example(), keep, trained=trained)

    def _file(self, name: str) -> Path:
        return self.path / name
