"""torch.compile in training: what can be compiled, and when."""

from __future__ import annotations

__all__ = ["CompileError", "compile_network_", "compile_steps_", "uncompile_"]

import torch

from bmrs_pyro.distributions.joint_draw import EAGER, compiled_kernels, draw_with_kl
from bmrs_pyro.inference.guide import AutoTruncatedLogNormal
from bmrs_pyro.inference.model import SupervisedModel


class CompileError(OSError):
    """torch.compile does not work on this machine."""


def compile_steps_(guide: AutoTruncatedLogNormal) -> None:
    """Have a guide's steps draw and take the KL by compiled code, made once for any number of structures.

    Raises:
        CompileError: torch.compile does not work here; most often there is no C++ compiler.
    """
    kernels = compiled_kernels()
    loc, scale = (getattr(guide, name).detach().clone().requires_grad_() for name in ("loc", "scale"))
    halves = torch.full((2, len(loc)), 0.5, dtype=torch.float64, device=loc.device)
    try:
        theta, kl = draw_with_kl(loc, scale, guide.model.prior_on(loc.device), halves, kernels)
        (theta.sum() + kl.sum()).backward()
    except Exception as error:  # whatever a compiler, or its absence, raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompileError(
            f"torch.compile does not work here ({reason}); it needs a C++ compiler such as g++: install one, "
            "or train without compiling"
        ) from error
    guide.kernels = kernels


def compile_network_(model: SupervisedModel, *, recorded: bool = False) -> None:
    """Compile the network for the structures that it has, as training steps run it; on CUDA with captured graphs.

    The code is good for these sizes alone: to be called when no structure leaves any more.

    Args:
        model: the model.
        recorded: whether whole steps are captured already.
    """
    captured = next(model.network.parameters()).is_cuda and not recorded
    model.compiled = torch.compile(model.network.forward, mode="reduce-overhead" if captured else None)


def uncompile_(model: SupervisedModel, guide: object) -> None:
    """Run model and guide as they are again."""
    model.compiled = None
    if isinstance(guide, AutoTruncatedLogNormal):
        guide.kernels = EAGER
