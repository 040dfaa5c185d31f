"""The options that say how to rerank: one stage, or several with ``--stage``. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from shortlist import Rerank, RerankStage

STAGE = "MODEL[,depth=N][,weight=W][,deadline-share=S]"


def parse_stage(text: str) -> RerankStage:
    """A rerank stage from a reranker's name and settings, as in "late-interaction,depth=100,weight=0.4".

    Raises:
        click.BadParameter: the text cannot be read.
    """
    model, *settings = (part.strip() for part in text.split(","))
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, value = (part.strip() for part in setting.partition("="))
        field = name.replace("-", "_")
        try:
            if field not in {"depth", "weight", "deadline_share"} or field in given:
                raise ValueError(name)
            given[field] = int(value) if field == "depth" else float(value)
        except ValueError as error:
            raise click.BadParameter(f"{setting!r} in {text!r}: a stage is {STAGE}") from error
    if not model or "=" in model:
        raise click.BadParameter(f"{text!r} names no reranker: a stage is {STAGE}")
    return RerankStage(model=model, **given)


def stage_option(help: str) -> Callable[[Any], Any]:
    """The option ``--stage``, which may be repeated; its parameter is ``stages``."""
    return click.option(
        "--stage",
        "stages",
        metavar=STAGE,
        multiple=True,
        callback=lambda context, option, texts: tuple(map(parse_stage, texts)),
        help=help,
    )


def rerank_options(command: Any) -> Any:
    """Adds the options that ``read_rerank`` reads."""
    options = [
        click.option(
            "--rerank/--no-rerank", default=None, help="Whether to rerank; the collection's setting by default."
        ),
        click.option("--reranker", default="", metavar="NAME", help="Reranker; the collection's by default."),
        click.option("--depth", type=click.IntRange(1, 1000), help="Number of documents to rerank."),
        click.option("--weight", type=click.FloatRange(0, 1), help="Weight of the rerank score in the final score."),
        stage_option(
            "Rerank in several stages: repeat the option for each, in order. Replaces --reranker, --depth and --weight."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_rerank(options: dict[str, Any]) -> Rerank | None:
    """Takes the options of ``rerank_options`` out of all options; None when none is given.

    Raises:
        click.UsageError: ``--stage`` stands beside an option of one stage.
    """
    enabled, stages = options.pop("rerank"), options.pop("stages")
    one = {"model": options.pop("reranker"), "depth": options.pop("depth"), "weight": options.pop("weight")}
    if stages and any(value not in (None, "") for value in one.values()):
        raise click.UsageError("give --stage, or --reranker, --depth and --weight for one stage, but not both")
    rerank = Rerank(enabled=enabled, stages=stages, **one)
    return None if rerank == Rerank() else rerank
