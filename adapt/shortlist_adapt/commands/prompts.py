"""``shortlist adapt prompts``: copies the files that say what the language model is asked."""

from __future__ import annotations

from pathlib import Path

import click

from shortlist_adapt.synthesis.llm.prompts import copy_prompts
from shortlist_cli.output import note


@click.command("prompts")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def prompts_command(folder: Path) -> None:
    """Copies the prompts, people, types and levels of the language model into DIR, to change them.

    Name the folder with --llm-prompts. A file that you delete from it is Shortlist's own again. Files that are there
    already stay as they are.
    """
    made = copy_prompts(folder)
    for path in made:
        click.echo(str(path))
    if not made:
        note(f"{folder} has all the files already")
