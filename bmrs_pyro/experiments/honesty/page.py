"""The page about networks made to deceive, and the chance that the masks alone miss a treatment by place."""

from __future__ import annotations

__all__ = ["STUDY", "missed", "page"]

from collections.abc import Callable

import torch
from torch import Tensor

from bmrs_pyro.experiments.honesty.networks import KINDS
from bmrs_pyro.experiments.spread import Rows, markdown_table
from bmrs_pyro.experiments.study import Study
from bmrs_pyro.network.discovery.uneven_masks import STEPS, TRIALS, uneven_mask

_SIZES = (2, 3, 4, 6, 8, 16, 64)
_PATTERNS = 100
_ANCHORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "counted from the start": lambda pattern, width: pattern[:width],
    "counted from the end": lambda pattern, width: pattern[len(pattern) - width :],
    "as a share of the width": lambda pattern, width: pattern[torch.arange(width) * len(pattern) // width],
}
_HEAD = """# Structures that cannot be removed are not offered

Made by `bmrs reproduce honesty --out docs/results`; [honesty.json](honesty.json) has one object per kind of network
and version of the code. The networks are small and random, and the example inputs are zeros. *By place*: one layer's
channels are treated by their position. *Silent*: the outputs seldom or never respond to some of the layers.
*Plain*: all structures can be removed. An offer is *wrong* if, for one of 24 random masks, each on random weights and
inputs, the outputs change by more than 10⁻⁶ of the largest when structures whose gain is 0 are cut out, or the
network fails.
"""
_CHANCE = """
## The chance that a treatment by place passes

Each family is tried with {masks} masks in {trials} trials. The first masks keep all but the first, a run at the start,
and scattered ones. The second masks keep, of the remaining ones, all but the last, all but the first, and a single one.
A mask misses a treatment only if every kept channel is treated like the channel whose place it takes. If places count
from the start, keeping all but the first misses only treatments that treat each channel like its neighbour, which are
no treatments by place. If places count from the end, the same holds for keeping all but the last. Random treatments by
two values were drawn, without those that treat all channels alike. The masks missed

{table}
of {patterns} for each number of channels. A treatment shows only where the outputs respond. A trial is repeated with
other weights, inputs and gains until, at its first mask, the outputs have responded to 95 % of the kept channels in
each producer. A treatment that differs for d of them then passes that mask with a probability of at most 0.05ᵈ, if the
channels without a response are random. With fewer than 20 channels it never passes. After 12 attempts a quarter of the
channels is enough, and the probability is at most 0.75ᵈ. With less than a quarter the family is refused.
"""


def page(rows: Rows) -> str:
    """Return the page in Markdown."""
    codes = list(dict.fromkeys(row["code"] for row in rows))
    groups = []
    for group in dict.fromkeys(group for group, _, _ in KINDS.values()):
        for code in codes:
            own = [row for row in rows if row["code"] == code and KINDS[row["kind"]][0] == group]
            sums = (str(sum(row[key] for row in own)) for key in ("networks", "offered", "wrong"))
            groups.append([group, code, *sums])
    found = {(row["code"], row["kind"]): f"{row['offered']}, {row['wrong']}" for row in rows}
    tables = (
        markdown_table("| networks | code | number | offers | wrong offers |", groups),
        markdown_table(
            f"| kind | {' | '.join(f'{code}: offers, wrong' for code in codes)} |",
            ([kind, *(found.get((code, kind), "") for code in codes)] for kind in KINDS),
        ),
    )
    return "\n".join([_HEAD, *tables]) + _chance()


def _chance() -> str:
    table = markdown_table(
        f"| treatment | {' | '.join(f'C = {size}' for size in _SIZES)} |",
        ([name, *(str(missed(size, anchor)) for size in _SIZES)] for name, anchor in _ANCHORS.items()),
    )
    return _CHANCE.format(masks=TRIALS * STEPS, trials=TRIALS, table=table, patterns=_PATTERNS)


def missed(size: int, anchored: Callable[[Tensor, int], Tensor]) -> int:
    """Count the random treatments of C channels by two values that all masks of a verification miss."""
    random = torch.Generator().manual_seed(0)
    passed = 0
    for family in range(_PATTERNS):
        pattern = torch.rand(size, generator=random) < 0.5
        pattern[family % size] = ~pattern[(family + 1) % size]  # all alike would be no treatment by place
        passed += _passes(pattern, anchored, family)
    return passed


def _passes(pattern: Tensor, anchored: Callable[[Tensor, int], Tensor], family: int) -> bool:
    for trial in range(TRIALS):
        width = len(pattern)
        for step in range(STEPS):
            keep = uneven_mask(width, trial, step, family)
            before, width = anchored(pattern, width)[keep], int(keep.sum())
            if not torch.equal(before, anchored(pattern, width)):
                return False
    return True


STUDY = Study("honesty", ("code", "kind"), page, noun="kinds")
