"""Which devices torch can compute on here."""

from __future__ import annotations

__all__ = ["refuse_unusable"]

import torch


def refuse_unusable(device: str) -> None:
    """Raise ValueError if tensors cannot be made on the device: it is not there, or no device at all."""
    try:
        torch.empty(1, device=device).cpu()
    except Exception as error:  # whatever a backend, or its absence, raises
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); give cpu, or a GPU that torch sees"
        ) from None
