"""A check that torch can compute on a device."""

from __future__ import annotations

__all__ = ["refuse_unusable"]

import torch


def refuse_unusable(device: str) -> None:
    """Raise ValueError if tensors cannot be made on the device, because it is missing or its name is invalid."""
    try:
        torch.device(device)
    except Exception:  # torch's message lists all kinds of devices that there are
        raise ValueError(
            f"device is {device!r}, which torch does not know; give cpu, or cuda for a GPU"
        ) from None
    try:
        torch.empty(1, device=device).cpu()
    except Exception as error:  # backends, or their absence, raise many kinds of errors
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); give cpu, or a GPU that torch sees"
        ) from None
