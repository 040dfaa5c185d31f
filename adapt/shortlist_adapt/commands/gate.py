"""``shortlist adapt gate``: tests the candidate by real searches on held-out queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shortlist_adapt.commands.options import chosen, estimate_option, run_argument, settings_options
from shortlist_adapt.commands.showing import shown
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.plan import with_options
from shortlist_cli.connection import connect, long_client_options
from shortlist_cli.output import note


@click.command("gate")
@run_argument
@settings_options(GateSettings)
@estimate_option
@long_client_options
def gate_command(folder: RunFolder, *, estimate: bool, **options: Any) -> None:
    """Tests the models of RUN against what serves, and says whether they may be published.

    The models go to the server under names that nobody uses, and a generation is built beside the one that serves.
    Real searches on held-out queries then decide. After a refusal, everything is removed, and the exit code is 4.
    report.html shows gains and losses query by query.
    """
    from shortlist_adapt.gating import gate as steps

    plan = with_options(folder, "gate", chosen(GateSettings, options))
    with connect(options) as client:
        cost = steps.cost(folder, client, plan.collection, plan.gate)
        note(f"the gate will take {cost.line()}")
        if estimate:
            return
        with shown() as progress:
            try:
                decision = steps.gate(folder, client, plan.collection, plan.gate, progress, seed=plan.seed)
            finally:
                if folder.report.is_file():
                    progress.say(f"report: {Path(folder.report)}")
    click.echo(f"passed: {decision.reason}")
    note(f"to publish: shortlist adapt publish {folder.root}")
