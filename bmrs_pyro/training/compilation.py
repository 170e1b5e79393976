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
    """Compile a guide's draws and KL; the code is compiled once, for any number of structures.

    Raises:
        CompileError: torch.compile does not work here, usually because there is no C++ compiler.
    """
    kernels = compiled_kernels()
    loc, scale = (getattr(guide, name).detach().clone().requires_grad_() for name in ("loc", "scale"))
    halves = torch.full((2, len(loc)), 0.5, dtype=torch.float64, device=loc.device)
    try:
        theta, kl = draw_with_kl(loc, scale, guide.model.prior_on(loc.device), halves, kernels)
        (theta.sum() + kl.sum()).backward()
    except Exception as error:  # compilers, or their absence, raise many kinds of errors
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompileError(
            f"torch.compile does not work here ({reason}); it needs a C++ compiler such as g++: install one, "
            "or train without compiling"
        ) from error
    guide.kernels = kernels


def compile_network_(model: SupervisedModel, *, recorded: bool = False) -> None:
    """Compile the network of a model for training steps; on CUDA with captured graphs.

    The code fits the present sizes only, so call this when no more structures will be removed.

    Args:
        model: the model.
        recorded: whether whole steps are captured as CUDA graphs already.
    """
    captured = next(model.network.parameters()).is_cuda and not recorded
    model.compiled = torch.compile(model.network.forward, mode="reduce-overhead" if captured else None)


def uncompile_(model: SupervisedModel, guide: object) -> None:
    """Run model and guide without compiled code again."""
    model.compiled = None
    if isinstance(guide, AutoTruncatedLogNormal):
        guide.kernels = EAGER
