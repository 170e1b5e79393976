"""``bmrs architectures``: which networks have structures that can be removed exactly."""

from __future__ import annotations

__all__ = ["architectures", "smallest_members"]

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torchvision import models

from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.files import write_atomically
from bmrs_pyro.reporting import survey, survey_table
from bmrs_pyro.runs import NetworkSource

_HEAD = """# Architectures

{working} of {total} networks work: the smallest member of every family in torchvision, and those named in

    bmrs architectures{arguments} --out docs/architectures.md

No network is known by name: structures come from the dependency graph, and each family is tried on a copy.

- *reachable*: share of the parameters that belong to at least one structure;
- *seconds*: wall-clock time of `find_structures`, the trials included, on one core of a shared machine;
- *error*: largest difference in float32 between the network with half of all structures at gain 0 and the network
  without them, relative to how far the outputs of two random inputs are apart.

"""


def architectures(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help="FILE.py, module:callable, torchvision:NAME or timm:NAME, after torchvision's families."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file to write; else the table is printed.")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="The named networks alone.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for structures in networks, remove half of them at random, and say what is found and how exact it is."""
    console, output = Console(stderr=True, quiet=quiet), Output(json, quiet)
    named = networks or []
    surveys = {}
    for spec in [*([] if only else smallest_members()), *named]:
        torch.manual_seed(0)
        source = NetworkSource(spec)
        size = source.input_size() or _trained_size(spec)
        surveys[spec] = survey(source.build((3, size, size), 10), torch.randn(4, 3, size, size))
        console.print(f"{spec}: {surveys[spec].refusal or f'{surveys[spec].families} families'}")
    arguments = "".join(f" {part}" for part in (*named, *(["--only"] if only else [])))
    working = sum(one.refusal is None for one in surveys.values())
    text = _HEAD.format(working=working, total=len(surveys), arguments=arguments) + survey_table(surveys)
    if out is None:
        output.show(text)
    else:
        write_atomically(out, lambda file: file.write_text(text))
    output.result({spec: asdict(one) for spec, one in surveys.items()})


def smallest_members() -> list[str]:
    """Return the smallest network of every family that torchvision has for image classification.

    A family is what a name begins with, up to digits or a size: ``resnet``, ``resnext``, ``mobilenet_v3``, …
    """
    families: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        match = re.match(r"[a-z]+(_v\d)?", name)
        family = match.group() if match else name
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]
        families[family] = min(families.get(family, (size, name)), (size, name))
    return [f"torchvision:{name}" for _, (_, name) in sorted(families.items())]


def _trained_size(spec: str) -> int:
    """Return the height and width that torchvision's weights were trained for; 224 for other networks."""
    zoo, _, name = spec.partition(":")
    if zoo != "torchvision" or name not in models.list_models():
        return 224
    size: int = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return size
