"""Train a network plainly, from small images to large: ``python -m bmrs_pyro.experiments.trained.pretraining --help``.

It makes the trained network that ``bmrs fit --weights`` starts from, at low cost: most epochs use smaller images, which
cost a quarter at half the size, and only the last ones use the full size (Howard, DAWNBench 2018).
"""

from __future__ import annotations

__all__ = ["Stage", "pretrain", "run_command"]

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

from bmrs_pyro.data import Augmentation, Batches, Dataset, Splits, load
from bmrs_pyro.experiments.small_runs import evaluated
from bmrs_pyro.metrics import evaluate
from bmrs_pyro.runs import NetworkSource
from bmrs_pyro.training.allocator import keep_freed_memory


class Stage(NamedTuple):
    """Some epochs on images of one size."""

    epochs: int
    size: int

    @classmethod
    def parse(cls, text: str) -> list[Stage]:
        """Read ``5x16,2x24,1x32``: epochs × pixels.

        Raises:
            ValueError: the text has another form, or a number is 0.
        """
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(,[1-9]\d*x[1-9]\d*)*", text):
            raise ValueError(f"stages are {text!r}; give epochs x pixels, in order, such as 5x16,2x24,1x32")
        return [cls(*map(int, part.split("x"))) for part in text.split(",")]


def pretrain(
    net: nn.Module, splits: Splits[Dataset], stages: Sequence[Stage], log: Path, peak_rate: float = 0.15
) -> nn.Module:
    """Train by SGD with one cycle of the learning rate, in mixed precision, with mirrored and shifted images.

    Args:
        net: the network; trained in place, on its device.
        splits: the data; the training part is trained on, the validation part is evaluated after every epoch.
        stages: epochs and sizes.
        log: file that takes one JSON record per epoch.
        peak_rate: largest learning rate.
    """
    device = next(net.parameters()).device
    train = Batches(splits.train, 128, drop_last=True, augmentation=Augmentation(), device=device)
    validation = Batches(splits.validation, 500, shuffle=False, device=device)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=peak_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = len(train) * sum(stage.epochs for stage in stages)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak_rate, total_steps=steps, pct_start=0.25
    )
    start, epoch = time.process_time(), 0
    for stage in stages:
        for _ in range(stage.epochs):
            net.train()
            train.set_epoch(epoch)
            for x, y in train:
                if x.shape[-1] != stage.size:
                    x = interpolate(x, size=(stage.size, stage.size), mode="bilinear", antialias=True)
                optimizer.zero_grad()
                with torch.autocast(x.device.type, torch.bfloat16):
                    loss = cross_entropy(net(x), y, label_smoothing=0.1)
                loss.backward()
                optimizer.step()
                cycle.step()
            epoch += 1
            accuracy = evaluate(net, validation, splits.train.num_classes).accuracy
            record = {
                "epoch": epoch,
                "size": stage.size,
                "loss": loss.item(),
                "validation accuracy": accuracy,
            }
            with log.open("a") as file:
                file.write(json.dumps(record | {"cpu seconds": time.process_time() - start}) + "\n")
    return net


def main(
    model: Annotated[str, typer.Argument(help="FILE.py, module:callable, or torchvision:NAME.")],
    out: Annotated[Path, typer.Option(help="Weights file to write, .safetensors.")],
    dataset: Annotated[str, typer.Option("--data", help="As for bmrs fit.")] = "cifar10",
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the data sets.")] = None,
    stages: Annotated[str, typer.Option(help="Epochs x pixels, in order.")] = "5x16,2x24,1x32",
    validation: Annotated[float, typer.Option(help="Share of the training data left out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split and the weights.")] = 0,
) -> None:
    """Train a network plainly and save its weights."""
    keep_freed_memory()
    schedule = Stage.parse(stages)
    splits = load(dataset, data_root=data_root, validation=validation, seed=seed)
    torch.manual_seed(seed)
    net = NetworkSource(model).build(splits.train.input_shape, splits.train.num_classes)
    pretrain(net, splits, schedule, out.with_suffix(".jsonl"))
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, out)
    typer.echo(f"test accuracy {evaluated(net, splits.test, 500).accuracy:.2%}, weights in {out}")


def run_command(main: Callable[..., None]) -> None:
    """Run a function as a command; bad input ends in one line on standard error and exit status 2."""
    try:
        typer.run(main)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    run_command(main)
