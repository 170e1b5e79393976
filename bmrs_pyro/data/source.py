"""Where the data of a run come from."""

from __future__ import annotations

__all__ = ["DataSource"]

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSource:
    """A data set and its preparation.

    Attributes:
        data: digits, mnist, fashion_mnist, cifar10, FILE.npz, FILE.csv, FILE.parquet, an image folder, a saved folder
            of datasets, or code: FILE.py with data(), or module:callable.
        target: Column of a table to predict.
        data_root: Folder that holds the data sets.
        download: Download a missing data set.
        size: Resize images to this height and width.
        validation: Share of the training data to validate on.

    Raises:
        ValueError: the share is not between 0 and 1, or the size not positive.
    """

    data: str = "digits"
    target: str | None = None
    data_root: str | None = None
    download: bool = False
    size: int | None = None
    validation: float = 0.2

    @property
    def imports(self) -> bool:
        """Whether the data come from code that is imported."""
        name, colon, function = self.data.partition(":")
        return self.data.endswith(".py") or bool(colon and name and function.isidentifier())
