"""Options of commands, made from the fields of dataclasses."""

from __future__ import annotations

__all__ = ["Run", "field_helps", "flags", "given_options", "with_options_of"]

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

Run = Annotated[Path, typer.Argument(help="Run directory of bmrs fit.")]

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w|^\S|\Z)", re.MULTILINE | re.DOTALL)

_OLD_FLAGS = {"posterior_lr_factor": ("--variational-rate",)}  # removed in the next version
_NAMES = {("Target", "batch_size"): "latency_batch_size"}  # training has a batch size too


def with_options_of(
    panels: Callable[[str, str], str] = lambda kind, _: kind, **records: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the fields of dataclasses to a command as options; the command receives the dataclasses.

    A field may be annotated with its option. Otherwise the option's help is the field's description under
    ``Attributes:`` in the dataclass's docstring. Fields of type ``Any`` are read as text, and so are numbers that may
    also be shares. If the command or an earlier dataclass already has an option of that name, the field keeps its
    default.

    Args:
        panels: returns the help panel of an option, given the names of class and field.
        **records: dataclass of each of the command's parameters that receives one; or an instance with the defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in records]
        taken = {parameter.name for parameter in own}
        options: dict[str, dict[str, inspect.Parameter]] = {}
        for record, kind in records.items():
            options[record] = {name: one for name, one in _options(kind, panels) if one.name not in taken}
            taken |= {one.name for one in options[record].values()}
        added = [one for group in options.values() for one in group.values()]

        @functools.wraps(command)
        def with_records(**given: Any) -> None:
            made = {}
            for record, kind in records.items():
                values = {name: given.pop(one.name, one.default) for name, one in options[record].items()}
                made_of = kind if isinstance(kind, type) else type(kind)
                try:
                    made[record] = made_of(**values)
                except ValueError as error:
                    raise ValueError(_renamed(made_of.__name__, str(error))) from None
            command(**given, **made)

        with_records.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        with_records.__annotations__ = {one.name: one.annotation for one in [*own, *added]}
        return with_records

    return decorate


def given_options(context: typer.Context) -> set[str]:
    """Return the names of the options on the command line."""
    origins = {str(one.name): context.get_parameter_source(str(one.name)) for one in context.command.params}
    return {name for name, origin in origins.items() if origin is not None and origin.name == "COMMANDLINE"}


def flags(names: Iterable[str]) -> str:
    """Return options as they are typed, such as ``--max-macs, --seed``."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))


def field_helps(kind: type) -> dict[str, str]:
    """Return the descriptions of a dataclass's fields under ``Attributes:`` in its docstring, each as one line."""
    _, _, described = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(described)}


def _options(record: Any, panels: Callable[[str, str], str]) -> Iterator[tuple[str, inspect.Parameter]]:
    kind = record if isinstance(record, type) else type(record)
    helps, hints = field_helps(kind), get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        name, hint = _NAMES.get((kind.__name__, field.name), field.name), hints[field.name]
        if get_origin(hint) is not Annotated:
            hint = _annotated(name, hint, helps[field.name], panels(kind.__name__, field.name))
        default = getattr(record, field.name, field.default)
        yield (
            field.name,
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint),
        )


def _annotated(name: str, hint: Any, text: str, panel: str) -> Any:
    spellings = [flags([name]), *_OLD_FLAGS.get(name, ())]
    read: dict[str, Any] = {}
    if hint is Any:
        hint = str
    elif {float, str} <= {*get_args(hint)}:  # a number, or a share such as 50%
        hint = str | None
        read = {"parser": _quantity, "metavar": "NUMBER|TEXT"}
    return Annotated[hint, typer.Option(*spellings, help=text, rich_help_panel=panel, **read)]


def _renamed(kind: str, text: str) -> str:
    """Return the text of an error with the names of the options in place of the fields'."""
    for (owner, field), option in _NAMES.items():
        if owner == kind:
            text = re.sub(rf"\b{field}\b", option, text)
    return text


def _quantity(text: str) -> float | str:
    """Return a number as a number, and a share or a time with a unit as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
