"""Options that the ``bmrs reproduce`` commands share, and what the commands do with them."""

from __future__ import annotations

__all__ = ["Call", "chosen", "study_options"]

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markdown import Markdown

from bmrs_pyro import experiments
from bmrs_pyro.cli.output import Json, Output, Quiet
from bmrs_pyro.cli.results import added, prepare, write_page


@dataclass(frozen=True)
class Call:
    """The options that studies share."""

    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets: torchvision's layout or NAME.npz.")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds (0, 1, ...) of each run.")] = 1
    cache: Annotated[Path, typer.Option(help="Folder of finished runs, which are not run again.")] = Path(
        "runs"
    )
    out: Annotated[
        Path | None, typer.Option(help="Folder for the runs (.json), their page (.md) and its figures.")
    ] = None
    workers: Annotated[int, typer.Option(min=1, help="Number of runs in parallel.")] = 1
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Use only finished runs, from the cache and from --out.")
    ] = False
    json: Json = False
    quiet: Quiet = False

    @property
    def output(self) -> Output:
        """The output of the command."""
        return Output(self.json, self.quiet)

    @property
    def root(self) -> str:
        """The folder of the data sets.

        Raises:
            ValueError: no folder is given, and runs may be made.
        """
        if self.data_root is None and not self.rebuild:
            raise ValueError("--data-root is missing: the folder of the data sets, as MNIST/raw or mnist.npz")
        return str(self.data_root)

    def prepare(self, study: experiments.study.Study) -> None:
        """Check the file of results before any run."""
        if self.out is not None:
            prepare(self.out / f"{study.name}.json", study.keys)

    def runs(
        self,
        run: Callable[..., dict[str, Any]],
        configs: Sequence[experiments.sweep.Config],
        cache: Path | None = None,
        intact: Callable[..., bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Make the runs that are not finished, unless there is ``--rebuild``; return all finished ones.

        Args:
            run: makes one run.
            configs: what to run.
            cache: folder of finished runs, if not that of the option.
            intact: whether the files of a finished run still exist.
        """
        more = {"intact": intact} if intact else {}
        sweep = experiments.sweep.Sweep(run, cache or self.cache, self.workers, **more)
        if configs and not self.rebuild:
            sweep.execute(configs, progress=self.output.progress)
        return [{**config, **result} for config in configs for result in sweep.results([config])]

    def with_earlier(
        self, study: experiments.study.Study, rows: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Add rows to the file of results, and return all rows in it."""
        return rows if self.out is None else added(self.out / f"{study.name}.json", rows, study.keys)

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

    def conduct(
        self,
        study: experiments.study.Study,
        run: Callable[..., dict[str, Any]],
        configs: Sequence[experiments.sweep.Config],
        **given: str,
    ) -> None:
        """Make runs and their page.

        Args:
            study: the study.
            run: makes one run.
            configs: what to run.
            **given: what ``run`` needs besides a configuration.
        """
        self.prepare(study)
        self.publish(study, self.runs(functools.partial(run, **given), configs))


def study_options(*lacking: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of :class:`Call` to a command, which receives them as ``call``.

    Args:
        *lacking: options that the command does not have.
        **defaults: defaults of the command's own.
    """
    hints = get_type_hints(Call, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
            annotation=hints[field.name],
        )
        for field in fields(Call)
        if field.name not in lacking
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        all_ = [*(one for one in signature.parameters.values() if one.name != "call"), *shared]

        @functools.wraps(command)
        def with_call(**given: Any) -> None:
            options = {one.name: given.pop(one.name, one.default) for one in shared}
            command(**given, call=Call(**options))

        with_call.__signature__ = signature.replace(parameters=all_)  # type: ignore[attr-defined]
        with_call.__annotations__ = {one.name: one.annotation for one in all_}
        return with_call

    return decorate


def chosen(given: Iterable[str] | None, known: Collection[str], what: str) -> list[str]:
    """Return the given names without duplicates: a repeated name does not make a second seed.

    Args:
        given: the names; all, if there are none.
        known: the valid names.
        what: the kind of name, for the message.

    Raises:
        ValueError: a name is unknown.
    """
    names = list(dict.fromkeys(given or known))
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown here; use one of {', '.join(known)}")
    return names
