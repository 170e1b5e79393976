"""Where a network comes from: a file, an importable callable, torchvision or timm."""

from __future__ import annotations

__all__ = ["NetworkSource", "SourceError"]

import importlib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bmrs_pyro.runs.user_code import SourceError, UserCode


@dataclass(frozen=True)
class NetworkSource:
    """A recipe for a dense network.

    Args:
        spec: ``path/to/file.py`` (which defines ``network(input_shape, num_classes)``), ``package.module:callable``
            with that signature, ``torchvision:NAME`` or ``timm:NAME`` (timm must be installed).
        sha256: digest that the file must have, such as that of a run's own copy; None accepts any file.

    Raises:
        SourceError: the source is missing, was changed, or does not return a network.
    """

    spec: str
    sha256: str | None = None

    @property
    def imports(self) -> bool:
        """Whether the user's code is imported; False for networks of torchvision and timm."""
        return not self.spec.startswith(("torchvision:", "timm:"))

    @property
    def name(self) -> str:
        """The network's short name, without the path."""
        return self.file.stem if self.file else self.spec.removeprefix("torchvision:").removeprefix("timm:")

    def consent(self, where: Path) -> str:
        """Return the message that this source, which a file names, is not imported without the user's consent."""
        return (
            f"{where} says that its network comes from {self.spec!r}, which is code outside it; if you know and trust "
            "that code, give trust_source=True, or --trust-source on the command line"
        )

    @property
    def file(self) -> Path | None:
        """The Python file, None for other sources."""
        return Path(self.spec) if self.spec.endswith(".py") else None

    def input_size(self) -> int | None:
        """Return the height and width that the file sets by ``input_size = 32``; None if it sets none."""
        size = getattr(self._code().module(), "input_size", None) if self.file else None
        if size is not None and type(size) is not int:
            raise SourceError(f"{self.spec} says input_size = {size!r}; expected a whole number of pixels")
        return size

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make a freshly initialised network.

        Args:
            input_shape: shape of one example, such as ``(channels, height, width)``.
            num_classes: number of outputs.
        """
        for number in (*input_shape, num_classes):
            if type(number) is not int:
                raise SourceError(
                    f"input shape and number of classes must be integers, got {number!r:.60} among them"
                )
        if self.imports:
            net = self._code().call(input_shape, num_classes, purpose="make a network")
        else:
            make = self._torchvision if self.spec.startswith("torchvision:") else self._timm
            with UserCode(self.spec, "").blamed("fails to make a network"):
                net = make(input_shape, num_classes)
        if not isinstance(net, nn.Module):
            raise SourceError(f"{self.spec} gave a {type(net).__name__}; expected a torch.nn.Module")
        return net

    def _torchvision(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from torchvision import models

        name = self.spec.partition(":")[2]
        if name not in models.list_models():
            raise SourceError(
                f"torchvision has no model {name!r}; torchvision.models.list_models() names them"
            )
        if input_shape[0] != 3:
            raise SourceError(f"{self.spec} takes 3 input channels, but the data have {input_shape[0]}")
        net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
        return net

    def _timm(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        try:
            timm = importlib.import_module("timm")
        except ImportError:
            raise SourceError(f"{self.spec} needs timm, which is not installed: pip install timm") from None
        name = self.spec.partition(":")[2]
        if not timm.is_model(name):
            raise SourceError(f"timm has no model {name!r}; timm.list_models() names them")
        net: nn.Module = timm.create_model(name, in_chans=input_shape[0], num_classes=num_classes)
        return net

    def _code(self) -> UserCode:
        name, colon, _ = self.spec.partition(":")
        if not self.file and not (colon and name):
            raise SourceError(
                f"network {self.spec!r} is neither a .py file, nor module:callable, torchvision:NAME or timm:NAME"
            )
        return UserCode(self.spec, "network(input_shape, num_classes) -> nn.Module", self.sha256)

    def read(self) -> bytes:
        """Return the file's content."""
        return self._code().read()
