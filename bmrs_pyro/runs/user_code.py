"""Code that a user names: a Python file, or a callable of an importable module."""

from __future__ import annotations

__all__ = ["SourceError", "UserCode"]

import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bmrs_pyro.runs.mistakes import MARK, told


class SourceError(ValueError):
    """The user's code cannot be used; the message names the code and what to do."""


@dataclass(frozen=True)
class UserCode:
    """A user's function, which is imported when it is called.

    Args:
        spec: ``path/to/file.py`` or ``package.module:callable``.
        function: name of the function in a file, with its signature for messages, such as ``"data()"``.
        sha256: digest that the file must have; None accepts any file.

    Raises:
        SourceError: the code is missing, was changed, or fails.
    """

    spec: str
    function: str
    sha256: str | None = None

    @property
    def file(self) -> Path | None:
        """The Python file, None for a module."""
        return Path(self.spec) if self.spec.endswith(".py") else None

    def call(self, *arguments: Any, purpose: str) -> Any:
        """Call the function.

        Args:
            *arguments: its arguments.
            purpose: what the function does, for the message "fails to PURPOSE".
        """
        module, (name, _, signature) = self.module(), self.function.partition("(")
        if not self.file:
            name = self.spec.partition(":")[2]
        function = getattr(module, name, None)
        if not callable(function):
            raise SourceError(f"{self.spec} defines no callable {name}({signature}")
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            shown = signature.partition(")")[0]
            raise SourceError(
                f"{self.spec}: {name} is called with ({shown}), which does not fit ({error})"
            ) from None
        except ValueError:
            pass  # the callable has no signature to check
        with self.blamed(f"fails to {purpose}"):
            return function(*arguments)

    def module(self) -> ModuleType:
        """Import the file or module."""
        if self.file:
            content = self.read()
            if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
                raise SourceError(f"{self.file} was changed since the run was made; it is not imported")
            # a unique name, so that user files with the same name do not shadow each other
            name = f"_bmrs_source_{hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]}"
            module = ModuleType(name)
            module.__file__ = str(self.file)
            setattr(module, MARK, True)
            sys.modules[name] = module
            # runs exactly the bytes that were read: an importer would prefer a cached .pyc file
            with self.blamed("fails to import"):
                exec(compile(content, self.file, "exec"), vars(module))
            return module
        name, _, function = self.spec.partition(":")
        if name.endswith(".py"):
            raise SourceError(
                f"{self.spec}: give {name} alone, which defines {self.function.partition(' ->')[0]}; or "
                f"{Path(name).stem}:{function}, a module that Python finds"
            )
        with self.blamed(f"the module {name} cannot be imported"):
            module = importlib.import_module(name)
        setattr(module, MARK, True)
        return module

    def read(self) -> bytes:
        """Return the file's content."""
        try:
            return Path(self.spec).read_bytes()
        except OSError as error:
            raise SourceError(f"{self.spec} cannot be read ({error.strerror})") from None

    @contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """Turn any error into a SourceError that names the code and the line."""
        try:
            yield
        except SourceError:
            raise
        except (Exception, SystemExit) as error:
            raise SourceError(f"{self.spec}: {what} ({told(error)})") from error
