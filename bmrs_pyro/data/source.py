"""Where the data of a run come from."""

from __future__ import annotations

__all__ = ["DataSource"]

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSource:
    """A data set and how it is prepared.

    Attributes:
        data: digits, mnist, fashion_mnist, cifar10, FILE.npz or an image folder.
        data_root: Folder that holds the data sets.
        download: Download a missing data set.
        size: Resize images to this height and width.
        validation: Share of the training data to validate on.

    Raises:
        ValueError: the share is not between 0 and 1, or the size not positive.
    """

    data: str = "digits"
    data_root: str | None = None
    download: bool = False
    size: int | None = None
    validation: float = 0.2
