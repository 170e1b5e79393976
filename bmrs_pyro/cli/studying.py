"""Options that the ``bmrs reproduce`` commands share, and what the commands do with them."""

from __future__ import annotations

__all__ = ["Publication", "Runs", "RunsOnData", "chosen"]

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, read_rows, write_page


@dataclass(frozen=True)
class Publication:
    """Where the rows of a study go, and the page made of them."""

    out: Annotated[
        Path | None, typer.Option(help="Folder for the runs (.json), their page (.md) and its figures.")
    ] = None
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Use only finished runs, from the cache and from --out.")
    ] = False
    json: Json = False
    quiet: Quiet = False

    @property
    def output(self) -> Output:
        """The output of the command."""
        return Output(self.json, self.quiet)

    def prepare(self, study: experiments.study.Study) -> None:
        """Check the file of results before any run."""
        if self.out is not None:
            prepare(self.out / f"{study.name}.json", study.keys)

    def with_earlier(
        self, study: experiments.study.Study, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Add rows to the file of results, and return all rows in it.

        Raises:
            ValueError: there are none.
        """
        file = None if self.out is None else self.out / f"{study.name}.json"
        if not rows and (file is None or not read_rows(file)):
            row = study.noun.removesuffix("s")
            raise ValueError(
                f"{study.name}: no {row} is finished in --cache or in --out; run without --rebuild"
            )
        return rows if file is None else added(file, rows, study.keys)

    def publish(self, study: experiments.study.Study, rows: list[dict[str, Any]], **more: object) -> None:
        """Add rows to the file of results, and make the page and its figures of all rows in it.

        Args:
            study: the study.
            rows: the rows. The JSON output has only these, or with ``--rebuild`` all in the file.
            **more: what it has besides them.
        """
        known = self.with_earlier(study, rows)
        page = study.page(known)
        self.output.show(Markdown(page))
        self.output.result({study.noun: known if self.rebuild else rows, **more})
        if self.out is not None:
            for name, figure in study.figures(known).items():
                figure.savefig(self.out / f"{name}.png", dpi=120)
            write_page(self.out / f"{study.name}.md", page)


@dataclass(frozen=True)
class Runs(Publication):
    """The runs of a study."""

    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds (0, 1, ...) of each run.")] = 1
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path()
    workers: Annotated[int, typer.Option(min=1, help="Number of runs in parallel.")] = 1

    def make(
        self,
        run: Callable[..., dict[str, Any]],
        configs: Sequence[experiments.sweep.Config],
        cache: Path | None = None,
        **intact: Callable[..., bool],
    ) -> list[dict[str, Any]]:
        """Make the runs that are not finished, unless there is ``--rebuild``; return all finished ones."""
        sweep = experiments.sweep.Sweep(run, cache or self.cache, self.workers, **intact)
        if configs and not self.rebuild:
            sweep.execute(configs, progress=self.output.progress)
        return [{**config, **result} for config in configs for result in sweep.results([config])]

    def conduct(
        self,
        study: experiments.study.Study,
        run: Callable[..., dict[str, Any]],
        configs: Sequence[experiments.sweep.Config],
        **given: str,
    ) -> None:
        """Make runs and their page; ``given`` is what a run needs besides its configuration."""
        self.prepare(study)
        self.publish(study, self.make(functools.partial(run, **given), configs))


@dataclass(frozen=True)
class RunsOnData(Runs):
    """The runs of a study on named data sets."""

    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets: torchvision's layout or NAME.npz.")
    ] = None

    @property
    def root(self) -> str:
        """The folder of the data sets.

        Raises:
            ValueError: no folder is given, and runs may be made.
        """
        if self.data_root is None and not self.rebuild:
            raise ValueError("--data-root is missing: the folder of the data sets, as MNIST/raw or mnist.npz")
        return str(self.data_root)


def chosen(given: Iterable[str] | None, known: Collection[str], what: str) -> list[str]:
    """Return the given names, or all, without duplicates: a repeated name does not make a second seed.

    Raises:
        ValueError: a name is unknown.
    """
    names = list(dict.fromkeys(given or known))
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown here; use one of {', '.join(known)}")
    return names
