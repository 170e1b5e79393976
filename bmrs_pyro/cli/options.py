"""Options of commands, made from the fields of dataclasses."""

from __future__ import annotations

__all__ = ["field_helps", "with_options_of"]

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w|^\S|\Z)", re.MULTILINE | re.DOTALL)

_OLD_FLAGS = {"posterior_lr_factor": ("--variational-rate",)}  # go with the next version


def with_options_of(**records: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of dataclasses as options; it gets them as records.

    The help of an option is what the dataclass's docstring says of the field under ``Attributes:``. Fields that
    command lines cannot express (``Any``) are taken as words.

    Args:
        **records: dataclasses, by the command's parameter that gets the record.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in records]
        options = [option for kind in records.values() for option in _options(kind)]

        @functools.wraps(command)
        def with_records(**given: Any) -> None:
            made = {
                name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                for name, kind in records.items()
            }
            command(**given, **made)

        with_records.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        with_records.__annotations__ = {one.name: one.annotation for one in [*own, *options]}
        return with_records

    return decorate


def field_helps(kind: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of its fields under ``Attributes:``, in one line each."""
    _, _, described = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(described)}


def _options(kind: type) -> list[inspect.Parameter]:
    helps, hints = field_helps(kind), get_type_hints(kind)
    return [_option(field, hints[field.name], helps[field.name], kind.__name__) for field in fields(kind)]


def _option(field: Field[Any], hint: Any, text: str, panel: str) -> inspect.Parameter:
    flags = [f"--{field.name.replace('_', '-')}", *_OLD_FLAGS.get(field.name, ())]
    if hint is Any:
        hint = str
    option = typer.Option(*flags, help=text, rich_help_panel=panel)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[hint, option],
    )
