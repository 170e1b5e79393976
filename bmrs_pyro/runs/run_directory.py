"""A run on disk: its configuration, progress, posteriors and small network; safetensors and JSON, no pickle."""

from __future__ import annotations

__all__ = ["RunDirectory"]

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bmrs_pyro.distributions import TruncatedLogNormal
from bmrs_pyro.files import (
    BusyError,
    alone,
    save_tensors,
    write_atomically,
)
from bmrs_pyro.inference.likelihoods import Likelihood
from bmrs_pyro.network import NoisyNetwork, Structures, compact
from bmrs_pyro.path.shelf import Shelf
from bmrs_pyro.reduction import Decision, KeepMask
from bmrs_pyro.runs.config import RunConfig
from bmrs_pyro.runs.epoch_log import EpochLog
from bmrs_pyro.runs.errors import RunError
from bmrs_pyro.runs.likelihoods import likelihood_of, scored_by
from bmrs_pyro.runs.path_record import PathRecord
from bmrs_pyro.runs.portable import save
from bmrs_pyro.runs.pruning_record import PruningRecord
from bmrs_pyro.runs.run_files import (
    example_tensors,
    fitting,
    part,
    posterior_tensors,
    posteriors_of,
    read_json,
    read_record,
    read_tensors,
    write_json,
)
from bmrs_pyro.runs.run_inputs import DENSE, EXAMPLE, SOURCE_COPY, RunInputs
from bmrs_pyro.runs.source import NetworkSource
from bmrs_pyro.training import Checkpoint, Epoch, History


@dataclass(frozen=True)
class RunDirectory(RunInputs):
    """One run's directory.

    ======================== ============================================================
    ``config.json``          :class:`RunConfig`
    ``model.py``             copy of the network's source file, if it has one
    ``dense.safetensors``    the trained dense network, if there is one
    ``example.safetensors``  the inputs of one example, unless they are one array of real numbers
    ``metrics.jsonl``        one record per epoch
    ``state.safetensors``    state after the last epoch, for resuming a run at one KL weight
    ``path/``                the networks on the path and their refits, or the reductions of a trained network
    ``path.json``            the costs and scores of these networks, and the chosen one
    ``network.safetensors``  network, posteriors and the likelihood's scale at the end of training
    ``reduction.json``       criterion, keep masks, score of every structure, accuracy, likelihood's scale
    ``compact.safetensors``  the small network, with the keep masks
    ======================== ============================================================

    Attributes:
        structures: the network's structures, which were found when the run was made; None if it was made before.
    """

    structures: Structures | None = field(default=None, compare=False, repr=False)

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        dense: Mapping[str, Tensor] | None = None,
        example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor] | None = None,
    ) -> RunDirectory:
        """Make the directory with its configuration and a copy of the network's source file.

        Args:
            path: the directory.
            config: the configuration.
            dense: the trained weights that the run starts from; None for random ones.
            example: inputs of one example; None uses zeros of the configured shape.

        Raises:
            RunError: the directory holds a run already, or cannot be written.
        """
        run = cls(path, trust_source=True)  # the caller named the source
        source = NetworkSource(config.model)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with run.locked():
                if run.exists():
                    raise RunError(
                        f"{path} holds a run already; resume it with --resume or choose another directory"
                    )
                if source.file:
                    content = source.read()
                    config = replace(config, source_sha256=hashlib.sha256(content).hexdigest())
                    write_atomically(run._file(SOURCE_COPY), lambda file: file.write_bytes(content))
                if dense is not None:
                    save_tensors(run._file(DENSE), dense, {})
                if example is not None:
                    save_tensors(run._file(EXAMPLE), example_tensors(example), {})
                write_json(run._file("config.json"), config.to_json())
        except OSError as error:
            raise RunError(f"{path} cannot be written ({error.strerror})") from None
        return run

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here within the context.

        Raises:
            RunError: another process is writing here.
            WriteError: the directory cannot be written.
        """
        try:
            with alone(self._file(".lock")):
                yield
        except BusyError:
            raise RunError(f"another process is at work on {self.path}; wait for it, or stop it") from None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep other processes from writing here, and repair the metrics file from the checkpoint.

        Raises:
            RunError, CheckpointError: another process is writing here, or a file cannot be read.
            WriteError: the directory cannot be written.
        """
        self.refuse_none()
        with self.locked():
            store = self.checkpoint if self.config.target is None else self.shelf
            if (state := store.load()) is not None:
                self.save_metrics(state.epochs)
            yield

    @property
    def checkpoint(self) -> Checkpoint:
        """The file that holds the training state."""
        return Checkpoint(self._file("state.safetensors"))

    @property
    def shelf(self) -> Shelf:
        """The files of the networks on the path."""
        return Shelf(self._file("path"))

    def likelihood(self) -> str | Likelihood:
        """Return the likelihood that scores the small network: its name, or the one with the network's parameters."""
        likelihood, file = self.trained_likelihood(), self._file("reduction.json")
        if isinstance(likelihood, nn.Module) and (own := read_json(file).get("likelihood")):
            with fitting(file):
                likelihood.load_state_dict({name: torch.tensor(value) for name, value in own.items()})
        return scored_by(self.config, likelihood)

    def trained_likelihood(self) -> Likelihood:
        """Return the likelihood that the run was trained with, with its trained parameters."""
        likelihood = likelihood_of(self.config)
        if isinstance(likelihood, nn.Module):
            file = self._file("network.safetensors")
            with fitting(file):
                likelihood.load_state_dict(part(read_tensors(file)[0], "likelihood"))
        return likelihood

    def save_dense(self, dense: nn.Module) -> None:
        """Write the trained dense network."""
        save(dense, self._file(DENSE))

    def save_path_record(self, record: PathRecord) -> None:
        """Write the record of a path."""
        write_json(self._file("path.json"), record.to_json())

    def path_record(self) -> PathRecord | None:
        """Return the record of the run's path; None for a run at one KL weight.

        Raises:
            RunError: the path is not finished yet, or the file is damaged.
        """
        if self.config.target is None:
            return None
        return read_record(self._file("path.json"), PathRecord.from_json)

    def append_metrics(self, record: Epoch) -> None:
        """Add an epoch's record; it replaces the records of that epoch and of all later ones."""
        self._log.append(record)

    def save_metrics(self, epochs: Iterable[Epoch]) -> None:
        """Rewrite the records of all epochs if they differ from the file's."""
        self._log.mend(epochs)

    def metrics(self) -> list[Epoch]:
        """Return the records of all epochs so far."""
        return self._log.records()

    @property
    def _log(self) -> EpochLog:
        return EpochLog(self._file("metrics.jsonl"))

    def save_network(
        self,
        network: NoisyNetwork,
        posteriors: Mapping[str, TruncatedLogNormal],
        history: History,
        likelihood: Likelihood | None = None,
    ) -> None:
        """Write network, posteriors, scores and the likelihood's parameters at the end of training."""
        tensors, meta = posterior_tensors(posteriors, history.keep)
        tensors |= {f"network::{name}": value for name, value in network.net.state_dict().items()}
        tensors |= {f"scores::{name}": value for name, value in history.scores.items()}
        if isinstance(likelihood, nn.Module):
            tensors |= {f"likelihood::{name}": value for name, value in likelihood.state_dict().items()}
        save_tensors(self._file("network.safetensors"), tensors, meta)

    def network(self) -> tuple[NoisyNetwork, dict[str, TruncatedLogNormal], KeepMask]:
        """Return network, posteriors and keep masks at the end of training."""
        tensors, meta = read_tensors(self._file("network.safetensors"))
        noisy = self.noisy()
        with fitting(self._file("network.safetensors")):
            keep = KeepMask.from_json(meta["keep"])
            if keep.removed:
                noisy.remove_(keep)
            noisy.net.load_state_dict(part(tensors, "network"))
            stored = posteriors_of(tensors, meta)
            # runs of earlier versions have no posteriors of structures that layer norms normalise over
            found = {
                family.name: stored[family.name]
                for family in noisy.structures
                if family.name in stored or not family.norms
            }
        return noisy, found, keep

    def scores(self) -> dict[str, Tensor]:
        """Return the last score of every structure by the run's criterion, ``(C_f,)``; empty in early runs."""
        return part(read_tensors(self._file("network.safetensors"))[0], "scores")

    def save_decision(
        self,
        decision: Decision,
        small: nn.Module,
        validation_accuracy: float | None = None,
        validation_rmse: float | None = None,
        likelihood: Likelihood | None = None,
        pruned: PruningRecord | None = None,
    ) -> None:
        """Write a decision, the resulting small network and, if known, its scores on the validation data.

        Args:
            decision: the decision.
            small: the small network.
            validation_accuracy: its accuracy.
            validation_rmse: its RMSE.
            likelihood: the likelihood with its parameters; None if they are those at the end of training.
            pruned: how the finished run was pruned again; None for the decision of the run itself.
        """
        save_tensors(self._file("compact.safetensors"), small.state_dict(), {"keep": decision.keep.to_json()})
        scores = {"validation_accuracy": validation_accuracy, "validation_rmse": validation_rmse}
        state = likelihood.state_dict() if isinstance(likelihood, nn.Module) else {}
        own = {"likelihood": {name: value.tolist() for name, value in state.items()}}
        later = {"pruned": pruned and pruned.to_json()}
        write_json(self._file("reduction.json"), decision.to_json() | scores | own | later)

    def decision(self) -> Decision:
        """Return the last decision."""
        return read_record(self._file("reduction.json"), Decision.from_json)

    def validation_scores(self) -> tuple[float | None, float | None]:
        """Return the small network's accuracy and RMSE on the validation data; None if unknown, as in early runs."""
        record = read_json(self._file("reduction.json"))
        return record.get("validation_accuracy"), record.get("validation_rmse")

    def pruned(self) -> PruningRecord | None:
        """Return how the run was pruned again after it had finished; None if it was not."""
        record = read_json(self._file("reduction.json")).get("pruned")
        return record and PruningRecord.from_json(record)

    def small(self, dense: nn.Module | None = None) -> nn.Module:
        """Return the small network, a plain ``nn.Module`` in evaluation mode.

        Args:
            dense: the dense network with any weights, to which hooks are added; by default made from the run's source.

        Raises:
            RunError: a file is missing, damaged, of a newer format, or of another network.
            SourceError: the network's source is missing, was changed or cannot be imported.
        """
        self.refuse_none()
        tensors, meta = read_tensors(self._file("compact.safetensors"))
        dense = self.dense() if dense is None else dense
        with fitting(self._file("compact.safetensors")):
            net = compact(self.noisy(dense), KeepMask.from_json(meta["keep"]))
            net.load_state_dict(tensors)
        return net.eval()
