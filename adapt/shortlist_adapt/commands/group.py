"""``shortlist adapt``: the group of the steps, and how their errors are shown.

1: the step failed or was interrupted; 2: wrong usage (click's own); 4: the gate refused the candidate.
"""

from __future__ import annotations

from typing import Any

import click

from shortlist_adapt.errors import AdaptError
from shortlist_cli.group import LazyGroup

COMMANDS = {
    "run": ("run:run_command", "All steps: from a served collection to a published, better model."),
    "synthesise": ("synthesise:synthesise_command", "Read the collection and collect or make queries for training."),
    "mine": ("mine:mine_command", "Find hard negatives for the queries by searching the collection."),
    "train": ("train:train_command", "Train the embedder, the reranker, or both."),
    "merge": ("merge:merge_command", "Merge checkpoints, and choose the best on the development split."),
    "gate": ("gate:gate_command", "Test the candidate on held-out queries; exit with 4 if it is not better."),
    "prompts": ("prompts:prompts_command", "Copy the prompts of the language model into a folder, to change them."),
    "publish": ("publish:publish_command", "Publish the model, reindex the collection and switch to it."),
}
"""Each step's module and its line of help."""

_LIBRARIES = frozenset(
    {"accelerate", "datasets", "ir_measures", "jinja2", "numpy", "openai", "peft", "safetensors", "scipy"}
    | {"sentence_transformers", "tokenizers", "torch", "transformers"}
)
"""What the extra ``adapt`` brings and a step may find missing."""


class AdaptGroup(LazyGroup):
    """Turns the errors of steps into a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a step."""
        try:
            return super().invoke(ctx)
        except AdaptError as error:
            click.ClickException(str(error)).show()
            ctx.exit(error.exit_code)
        except ImportError as error:
            if (error.name or "").partition(".")[0] not in _LIBRARIES:
                raise
            raise click.ClickException("this command needs more libraries: pip install 'shortlist[adapt]'") from error


@click.group("adapt", cls=AdaptGroup, package=__package__, lazy=COMMANDS)
def adapt_group() -> None:
    """Adapts models to a collection: queries, hard negatives, training, merging, a test, and publication.

    Every step keeps plain files in a run folder. It can be interrupted, and goes on when it is run again.
    """
