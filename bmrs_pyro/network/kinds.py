"""Kinds of networks that cannot take gains, and what to do about each."""

from __future__ import annotations

__all__ = ["compiled_layers", "refuse_unfit", "uncompiled"]

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def refuse_unfit(net: object) -> None:
    """Refuse a network whose layers cannot be seen or changed.

    Raises:
        TypeError: it is no module.
        ValueError: it is scripted, compiled as a whole, spread over devices, or has layers without sizes yet.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"the network is a {type(net).__name__}; give a torch.nn.Module")
    for name, module in net.named_modules():
        where = f"layer {name!r}" if name else "the network"
        if isinstance(module, nn.parallel.DistributedDataParallel) or (
            isinstance(module, nn.DataParallel) and module.device_ids  # without GPUs it does nothing
        ):
            raise ValueError(
                f"{where} is a {type(module).__name__}; give its .module, and train on several GPUs under torchrun"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is TorchScript, which cannot be cut; give the Python module it was made from"
            )
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise ValueError(
                f"{where} is a {type(module).__name__}, without a size yet; call the network once before"
            )
        if any(tensor is not None and tensor.is_meta for tensor in module._parameters.values()):
            raise ValueError(
                f"{where} is on the meta device, without numbers; load its weights on a real one"
            )
        if any(tensor is not None and tensor.is_inference() for tensor in module._parameters.values()):
            raise ValueError(
                f"{where} was made in torch.inference_mode, so nothing can train it; make it outside"
            )
    if any(name == "" for name in compiled_layers(net)):
        raise ValueError(
            "the network is compiled, and compiled code has no place for gains; give it as it was before torch.compile "
            "(_orig_mod, where there is one), and let fit(..., compile=True) compile it"
        )


def compiled_layers(net: nn.Module) -> Iterator[str]:
    """Name the modules that torch.compile has compiled."""
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds; before that nothing is compiled
    for name, module in net.named_modules():
        if (dynamo and isinstance(module, dynamo.OptimizedModule)) or module._compiled_call_impl is not None:
            yield name


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled functions run as they were before."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
