"""``bmrs architectures``: surveys of networks for structures that can be removed exactly."""

from __future__ import annotations

__all__ = ["architectures"]

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bmrs_pyro import reporting
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.files import refuse_unwritable, write_atomically

_HEAD = """# Architectures

{working} of {total} networks work: the smallest member of every family in torchvision, and those named in

    bmrs architectures{arguments} --out docs/architectures.md

The search uses gradients between layers, not network names. Each family is verified on a copy.

Some code fixes widths, and then nothing can leave. Attention in timm's EVA-02, XCiT and CaiT gives its result as many
channels as the stream has, so that no head can leave there; its inner neurons can. Lists and numbers of a module that
say how channels are split are found and changed, constants are not. Layers with weight norm, and convolutions that
standardise their weights, as in NF-ResNet, get the computed weights as their own when the network is wrapped, and then
train these. For the reduction of a trained network (`trained=True`), channels that layer norms normalise over, and
channels of attention heads, are structures [too](trained-networks.md); the tables are without them.

- *reachable*: share of the parameters that belong to at least one structure;
- *seconds*: wall-clock time of `find_structures`, with verification, on one core of a shared machine;
- *error*: largest difference in float32 between the network with half of all structures at gain 0 and the network
  without them, relative to the difference of the outputs for two random inputs.

"""

_TRANSFORMERS = """
## Transformers and recurrent networks

Small, randomly initialised networks, most of them from the package transformers: two layers, eight heads. Attention
heads are found where attention is computed. Queries that share keys and values are removed together with them.

- *reachable*: share of the parameters, without embeddings, that belong to at least one structure;
- *stays*: the other parameters. Most belong only to channels of the residual stream. LayerNorm and RMSNorm divide by a
  mean over all channels of the stream, so none can be removed exactly while gains are random; heads and inner
  neurons can;
- *error*: as above, the largest for two batch sizes and lengths other than those used to find the structures.

A hidden unit of a recurrent layer is removed from all stacked layers and both directions at once. An inner neuron of
experts that are fused in one tensor is removed from all experts, which are then computed one by one. Besides the
stream, these stay: attention with a single head; T5's cross-attention heads, because a tensor of zeros with the first
such layer's number of heads is passed to all others; and OLMoE's heads, because a norm goes over the queries of all
heads.

"""


def architectures(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help="FILE.py, module:callable, torchvision:NAME or timm:NAME, in addition to torchvision's families."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file to write; by default the table is printed.")
    ] = None,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="Add small transformers by family; needs transformers.")
    ] = False,
    only: Annotated[bool, typer.Option("--only", help="Survey only the named networks.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the structures of networks, remove half of them at random, and print the counts and the error."""
    console, output = Console(stderr=True, quiet=quiet, markup=False), Output(json, quiet)
    if out is not None:
        refuse_unwritable(out)
    named = networks or []
    surveys = {}
    for spec in [*([] if only else reporting.smallest_members()), *named]:
        surveys[spec] = reporting.survey_source(spec)
        console.print(f"{spec}: {surveys[spec].refusal or f'{surveys[spec].families} families'}")
    options = [*(["--transformers"] if transformers else []), *(["--only"] if only else [])]
    arguments = "".join(f" {part}" for part in (*named, *options))
    working = sum(one.refusal is None for one in surveys.values())
    text = _HEAD.format(working=working, total=len(surveys), arguments=arguments) + reporting.survey_table(
        surveys
    )
    if transformers:
        text += _TRANSFORMERS + reporting.transformer_table()
    if out is None:
        output.show(text)
    else:
        write_atomically(out, lambda file: file.write_text(text))
    output.result({spec: asdict(one) for spec, one in surveys.items()})
