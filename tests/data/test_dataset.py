"""A data set checks itself when it is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bmrs_pyro.data import DataError, Dataset

GOOD = Dataset(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), 3, "toy")


def test_describes_its_examples() -> None:
    assert len(GOOD) == 4
    assert GOOD.input_shape == (1, 2, 2)
    assert replace(GOOD, images=torch.zeros(4, 7)).input_shape == (7,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 2, 2, 2, 2)}, r"shape \(4, 2, 2, 2, 2\); expected \(N, C, H, W\)"),
        (
            {"images": torch.zeros(4, 2, dtype=torch.float64)},
            "images are torch.float64; expected torch.uint8",
        ),
        ({"images": torch.zeros(3, 2)}, "3 rows but 4 labels; there must be one label per row"),
        ({"images": torch.zeros(0, 2), "labels": torch.zeros(0, dtype=torch.int64)}, "no examples"),
        ({"images": torch.zeros(4, 0)}, "no examples"),
        ({"images": torch.tensor([[0.0], [1.0], [torch.nan], [torch.inf]])}, "example 2 .* holds NaN"),
        ({"images": torch.tensor([[0.0], [-torch.inf], [0.0], [0.0]])}, "example 1 .* infinity"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0, 0.0])}, "labels are torch.float32"),
        (
            {"labels": torch.tensor([[0], [1], [2], [0]])},
            r"shape \(4, 1\); expected torch.int64, shape \(N,\)",
        ),
        ({"labels": torch.tensor([0, 1, 3, 0])}, "labels range from 0 to 3; expected 0 to 2"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "labels range from -1 to 1; expected 0 to 2"),
        ({"class_names": ("one", "two")}, "2 class names for 3 classes"),
        ({"mean": (0.0, 0.0)}, "mean and std need 1 or 1 values"),
        ({"std": (0.0,)}, "std positive"),
    ],
)
def test_refuses_what_does_not_fit_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^toy: .*{message}") as caught:
        replace(GOOD, **change)
    assert "\n" not in str(caught.value)
