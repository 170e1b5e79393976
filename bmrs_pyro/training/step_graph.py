"""A training step as two CUDA graphs, replayed as long as shapes and learning rates do not change."""

from __future__ import annotations

__all__ = ["CudaRecorder", "StepGraph", "refuse_unrecordable"]

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from pyro.infer import SVI
from torch import Tensor

from bmrs_pyro.distributed import world_size
from bmrs_pyro.inference.elbo import MeanFieldELBO, finite, negative_sum
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.model import Inputs, SupervisedModel
from bmrs_pyro.network.nested import leaves, map_leaves, tensors_in
from bmrs_pyro.training.optimiser import JointOptim

# in the first steps Adam makes its moments, and cuDNN and cuBLAS make their plans; this must not be recorded
_STEPS_BEFORE = 3


class Recorder(Protocol):
    """An object that records work and replays it without Python."""

    def aside(self) -> AbstractContextManager[object]:
        """Return the context in which steps are made and recorded."""

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Record work without executing it, and return a function that executes it."""


class CudaRecorder:
    """Records kernels as CUDA graphs that share one memory pool.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Use a separate stream, synchronised with the default stream, on which nothing can be recorded."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            yield
        usual.wait_stream(self._stream)

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Record the kernels that ``work`` would launch, and return a function that replays them."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        return graph.replay


def refuse_unrecordable(device: torch.device | str) -> None:
    """Raise ValueError if steps cannot be recorded on the device, or by this number of processes."""
    if torch.device(device).type != "cuda":
        raise ValueError(f"CUDA graphs need a GPU, and the network is on {str(device)!r}; train without them")
    if world_size() > 1:
        raise ValueError("CUDA graphs can be recorded by a single process only; train without them")


class StepGraph:
    """Steps of SVI that are recorded once and then replayed, without Python between their kernels.

    The first steps run as usual. Then two graphs are recorded, one up to the gradients and one for the
    optimiser. Between them the loss is checked: it must be finite before weights are changed. Batches of
    another size than the recorded one run as usual. A recorded step has the learning rates and structures at the
    time of recording, so every epoch needs a new object.

    Args:
        svi: a SupervisedModel, its AutoTruncatedLogNormal and a JointOptim.
        recorder: records the two graphs.
    """

    def __init__(self, svi: SVI, recorder: Recorder) -> None:
        self._svi, self._recorder = svi, recorder
        self._model: SupervisedModel = svi.model
        self._guide: AutoTruncatedLogNormal = svi.guide
        self._optim: JointOptim = svi.optim
        self._steps = 0
        self._x: Inputs = ()
        self._y = torch.empty(0)
        self._terms: dict[str, Tensor] = {}
        self._loss = torch.empty(0)
        self._to_gradients: Callable[[], object] | None = None
        self._update: Callable[[], object] | None = None

    def step(self, x: Inputs, y: Tensor) -> float:
        """Make the same step as ``svi.step(x, y)``, and return its loss.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite.
            ValueError: the optimiser's steps cannot be recorded.
        """
        with self._recorder.aside():
            self._steps += 1
            if self._steps <= _STEPS_BEFORE:
                with self._branch_free():  # compiles the special functions that a recorded step calls
                    return float(self._svi.step(x, y))
            if self._to_gradients is None:
                self._record(x, y)
            if _shapes((x, y)) != _shapes((self._x, self._y)):
                return float(self._svi.step(x, y))
            assert self._to_gradients is not None
            assert self._update is not None
            for static, given in zip(tensors_in((self._x, self._y)), tensors_in((x, y)), strict=True):
                static.copy_(given, non_blocking=True)
            self._to_gradients()
            loss = finite(self._loss, self._terms, (self._x, self._y))
            self._update()
            return loss

    def _record(self, x: Inputs, y: Tensor) -> None:
        self._x, self._y = map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (x, y))
        self._optim.capturable_()
        self._to_gradients = self._recorder.record(self._gradients)
        self._update = self._recorder.record(lambda: self._optim(()))

    def _gradients(self) -> None:
        with self._branch_free():
            terms = MeanFieldELBO.terms(self._model, self._guide, self._x, self._y)
        loss = negative_sum(terms)
        loss.backward()
        self._terms, self._loss = {name: term.detach() for name, term in terms.items()}, loss.detach()

    @contextmanager
    def _branch_free(self) -> Iterator[None]:
        """Let the guide draw without branches that depend on tensor values: these cannot be recorded."""
        usual = self._guide.kernels
        self._guide.kernels = usual.branch_free()
        try:
            yield
        finally:
            self._guide.kernels = usual


def _shapes(batch: tuple[Inputs, Tensor]) -> list[Any]:
    """Return the shapes of the tensors, and the other leaves, which are recorded as constants."""
    return [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves(batch)]
