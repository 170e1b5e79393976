"""A check that torch can compute on a device."""

from __future__ import annotations

__all__ = ["refuse_unusable"]

import torch


def refuse_unusable(device: str) -> None:
    """Raise ValueError if tensors cannot be made on the device, because it is missing or its name is invalid."""
    reason = "torch knows no such device"  # its own message lists all that it knows
    try:
        named = torch.device(device)
        reason = ""
        torch.empty(1, device=named).cpu()
    except Exception as error:  # backends, or their absence, raise many kinds of errors
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"device {device!r} cannot be used here ({reason or first}); give cpu, or a GPU that torch sees"
        ) from None
