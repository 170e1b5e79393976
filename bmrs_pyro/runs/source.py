"""Where a network comes from: a file, an importable callable, torchvision or timm."""

from __future__ import annotations

__all__ = ["NetworkSource", "SourceError"]

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from bmrs_pyro.runs.mistakes import MARK, told


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
    def imports(self) -> bool:
        """Whether code is imported that the spec names; torchvision's and timm's networks are in their registries."""
        return not self.spec.startswith(("torchvision:", "timm:"))

    @property
    def name(self) -> str:
        """What the network is called where its path does not matter."""
        return self.file.stem if self.file else self.spec.removeprefix("torchvision:").removeprefix("timm:")

    def consent(self, where: Path) -> str:
        """Say that a file names this source, which is not imported because of that alone.

        Args:
            where: the file or run directory.
        """
        return (
            f"{where} says that its network comes from {self.spec!r}, which is code outside it; if you know and trust "
            "that code, say so by trust_source=True, or --trust-source of a command"
        )

    @property
    def file(self) -> Path | None:
        """The Python file, None for other sources."""
        return Path(self.spec) if self.spec.endswith(".py") else None

    def input_size(self) -> int | None:
        """Return the height and width the source asks for by ``input_size = 32``, None if any will do."""
        size = getattr(self._module(), "input_size", None) if self.file else None
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
                    f"a network is made for an input shape and a number of classes, got {number!r:.60} among them"
                )
        factory = self._factory()
        try:
            inspect.signature(factory).bind(input_shape, num_classes)
        except TypeError as error:
            raise SourceError(
                f"{self.spec}: it is called with (input_shape, num_classes), which does not fit ({error})"
            ) from None
        except ValueError:
            pass  # a callable that does not tell its arguments
        with self._blamed("fails to make a network"):
            net = factory(input_shape, num_classes)
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
            content = self.read()
            if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
                raise SourceError(f"{self.file} was changed since the run was made; it is not imported")
            # a name of its own, so that user files called alike do not shadow each other
            name = f"_bmrs_source_{hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]}"
            module = ModuleType(name)
            module.__file__ = str(self.file)
            setattr(module, MARK, True)
            sys.modules[name] = module
            # what was read is what is run: an importer would prefer compiled code that lies beside it
            with self._blamed("fails to import"):
                exec(compile(content, self.file, "exec"), vars(module))
            return module
        name, colon, _ = self.spec.partition(":")
        if not colon or not name:
            raise SourceError(
                f"network {self.spec!r} is neither a .py file, nor module:callable, torchvision:NAME or timm:NAME"
            )
        with self._blamed(f"the module {name} cannot be imported"):
            module = importlib.import_module(name)
        setattr(module, MARK, True)
        return module

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        """Say of any error that it is the source's, and in which line."""
        try:
            yield
        except SourceError:
            raise
        except (Exception, SystemExit) as error:
            raise SourceError(f"{self.spec}: {what} ({told(error)})") from error

    def read(self) -> bytes:
        """Return the file's content."""
        try:
            return Path(self.spec).read_bytes()
        except OSError as error:
            raise SourceError(f"{self.spec} cannot be read ({error.strerror})") from None
