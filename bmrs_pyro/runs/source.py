"""Where a network comes from: a file, an importable callable, torchvision or timm."""

from __future__ import annotations

__all__ = ["NetworkSource", "SourceError"]

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn


class SourceError(ValueError):
    """A network cannot be made from its source; the message names the source and what to do."""


@dataclass(frozen=True)
class NetworkSource:
    """A recipe for a dense network.

    Args:
        spec: ``path/to/file.py`` (which defines ``network(input_shape, num_classes)``), ``package.module:callable``
            of that signature, ``torchvision:NAME`` or ``timm:NAME`` (which asks for timm to be installed).
        sha256: digest the file must have, as when a run brings its own copy of it; None accepts any.

    Raises:
        SourceError: the source is missing, was changed, or does not make a network.
    """

    spec: str
    sha256: str | None = None

    @property
    def file(self) -> Path | None:
        """The Python file, None for other sources."""
        return Path(self.spec) if self.spec.endswith(".py") else None

    def digest(self) -> str | None:
        """Return the file's SHA-256, None for other sources."""
        return hashlib.sha256(self._read()).hexdigest() if self.file else None

    def input_size(self) -> int | None:
        """Return the height and width the source asks for by ``input_size = 32``, None if any will do."""
        size = getattr(self._module(), "input_size", None) if self.file else None
        return None if size is None else int(size)

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make a freshly initialised network.

        Args:
            input_shape: shape of one example, such as ``(channels, height, width)``.
            num_classes: number of outputs.
        """
        net = self._factory()(input_shape, num_classes)
        if not isinstance(net, nn.Module):
            raise SourceError(f"{self.spec} gave a {type(net).__name__}; expected a torch.nn.Module")
        return net

    def _factory(self) -> Callable[[tuple[int, ...], int], object]:
        if self.spec.startswith("torchvision:"):
            return self._torchvision
        if self.spec.startswith("timm:"):
            return self._timm
        module, name = self._module(), "network"
        if not self.file:
            name = self.spec.partition(":")[2]
        factory = getattr(module, name, None)
        if not callable(factory):
            raise SourceError(
                f"{self.spec} defines no callable {name}(input_shape, num_classes) -> nn.Module"
            )
        return factory

    def _torchvision(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from torchvision import models

        name = self.spec.partition(":")[2]
        if name not in models.list_models():
            raise SourceError(
                f"torchvision has no model {name!r}; torchvision.models.list_models() names them"
            )
        if input_shape[0] != 3:
            raise SourceError(f"{self.spec} takes 3 input channels, the data have {input_shape[0]}")
        net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
        return net

    def _timm(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        try:
            timm = importlib.import_module("timm")
        except ImportError:
            raise SourceError(
                f"{self.spec} asks for timm, which is not installed: pip install timm"
            ) from None
        name = self.spec.partition(":")[2]
        if not timm.is_model(name):
            raise SourceError(f"timm has no model {name!r}; timm.list_models() names them")
        net: nn.Module = timm.create_model(name, in_chans=input_shape[0], num_classes=num_classes)
        return net

    def _module(self) -> ModuleType:
        if self.file:
            if self.sha256 is not None and self.digest() != self.sha256:
                raise SourceError(f"{self.file} was changed since the run was made; it is not imported")
            self._read()
            # a name of its own, so that user files called alike do not shadow each other
            name = f"_bmrs_source_{hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]}"
            spec = importlib.util.spec_from_file_location(name, self.file)
            if spec is None or spec.loader is None:
                raise SourceError(f"{self.file} cannot be imported")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                raise SourceError(f"{self.file} fails to import ({type(error).__name__}: {error})") from error
            return module
        name, colon, _ = self.spec.partition(":")
        if not colon or not name:
            raise SourceError(
                f"network {self.spec!r} is neither a .py file, nor module:callable, torchvision:NAME or timm:NAME"
            )
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise SourceError(f"module {name!r} cannot be imported ({error})") from error

    def _read(self) -> bytes:
        try:
            return Path(self.spec).read_bytes()
        except OSError as error:
            raise SourceError(f"{self.spec} cannot be read ({error.strerror})") from None
