"""``shortlist verify``: checks collections and names every fault.

Given a folder, the command opens it as a server would, so no server may run on it. Without a folder it asks a server.
The exit code is 0 when every check passes, else 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from shortlist import VerifyCheck, VerifyProgress, VerifyReport
from shortlist_cli import output
from shortlist_cli.commands.waiting import detach_option, follow
from shortlist_cli.connection import connect_for_long, long_client_options
from shortlist_cli.hosting.serve import MISSING_SERVER

if TYPE_CHECKING:
    from shortlist_server.storage.reports import CollectionReport
    from shortlist_server.storage.store import EmbeddedStore

EXIT_NOT_OK = 1

MAX_SAMPLE = 10_000


@click.command("verify")
@click.argument(
    "folder", required=False, metavar="[DIR]", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--collection", "-c", metavar="NAME", help="Check this collection only.")
@click.option("--repair", is_flag=True, help="Rebuild damaged indexes from the database, then check again.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="With --repair: give up acknowledged commits that were lost with the write-ahead log.",
)
@click.option(
    "--sample",
    type=click.IntRange(0, MAX_SAMPLE),
    default=200,
    show_default=True,
    help="Vectors of each segment to search for by themselves.",
)
@detach_option
@click.option("--json", "as_json", is_flag=True, help="Print the reports with every check as JSON.")
@long_client_options
def verify_command(
    folder: Path | None,
    *,
    collection: str | None,
    repair: bool,
    accept_loss: bool,
    sample: int,
    detach: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Checks the collections in the data folder or backup DIR, or, without DIR, those of a running server.

    The command checks the database, its counts, and the checksum of every row, vector and segment. Each live passage
    must be in exactly one place, and each vector of a sample must find itself. In a backup, the command compares every
    file with its entry in backup.json and changes nothing. With DIR, no server may run on the folder. The exit code is
    1 when a check fails. Ctrl-C cancels the verification; repairs that were made stay.
    """
    source = click.get_current_context().get_parameter_source("target")
    if folder is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give DIR or --target, not both")
    if folder is not None and detach:
        raise click.UsageError("--detach is for a server; this command itself verifies DIR")
    if accept_loss and not repair:
        raise click.UsageError("--accept-loss needs --repair")
    with output.step_display() as display:
        task = display.add_task("open")

        def show(progress: VerifyProgress) -> None:
            display.update(task, description=f"{progress.collection}: {progress.step}")

        if folder is not None:
            reports = verify_folder(
                folder, collection, sample=sample, repair=repair, accept_loss=accept_loss, progress=show
            )
        else:
            client, timeout = connect_for_long(options)
            with client:
                ended = follow(
                    client,
                    lambda: client.start_verify(
                        collection,
                        sample=sample,
                        repair=repair,
                        accept_loss=accept_loss,
                        timeout_seconds=timeout,
                    ),
                    detach=detach,
                    as_json=as_json,
                    progress=show,
                    timeout_seconds=timeout,
                )
            if ended is None:
                return
            assert isinstance(ended.result, tuple)
            reports = [report for report in ended.result if isinstance(report, VerifyReport)]
    # A damaged backup can be neither repaired nor restored.
    _print(reports, as_json=as_json, advice=folder is None or not (folder / "backup.json").exists())
    if not all(report.ok for report in reports):
        raise click.exceptions.Exit(EXIT_NOT_OK)


def verify_folder(
    folder: Path,
    collection: str | None,
    *,
    sample: int,
    repair: bool,
    accept_loss: bool,
    progress: Callable[[VerifyProgress], None],
) -> list[VerifyReport]:
    """Checks a collection, or all, of a data folder on which no server runs, or of a backup.

    Raises:
        click.ClickException: the folder is no data folder or is in use, or the server's libraries are not installed.
    """
    try:
        from shortlist_server.config import Config
        from shortlist_server.errors import ShortlistError
        from shortlist_server.storage.layout import BACKUP_FILE, COLLECTIONS_FOLDER
        from shortlist_server.storage.store import EmbeddedStore
    except ModuleNotFoundError as error:
        raise click.ClickException(MISSING_SERVER) from error
    if (folder / BACKUP_FILE).exists():
        if repair:
            raise click.UsageError("a backup is not repaired: restore it, which rebuilds what can be rebuilt")
        return _verify_backup(folder, collection, progress)
    # Opening would create missing folders.
    if not (folder / COLLECTIONS_FOLDER).is_dir():
        raise click.ClickException(
            f"{folder} is no data folder and no backup: it has neither {COLLECTIONS_FOLDER} nor {BACKUP_FILE}"
        )
    try:
        store = EmbeddedStore(Config(data_dir=folder), maintain=False)
    except ShortlistError as error:
        hint = "\nif a server runs on it, ask the server: shortlist verify --target HOST:PORT"
        raise click.ClickException(error.message + (hint if "in_use" in error.metadata else "")) from error
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be opened: {error}") from error
    try:
        names = store.names()
        if collection is not None and collection not in names:
            raise click.ClickException(f"there is no collection {collection!r} in {folder}")
        return [
            _verify_collection(store, name, sample=sample, repair=repair, accept_loss=accept_loss, progress=progress)
            for name in names
            if collection in (None, name)
        ]
    finally:
        store.close()


def _verify_collection(
    store: EmbeddedStore,
    name: str,
    *,
    sample: int,
    repair: bool,
    accept_loss: bool,
    progress: Callable[[VerifyProgress], None],
) -> VerifyReport:
    from shortlist_server.errors import ShortlistError
    from shortlist_server.storage.compaction.compactor import BuildFailed

    def tell(step: str) -> None:
        progress(VerifyProgress(collection=name, step=step))

    tell("open")
    try:
        return _report(store.verify(name, sample=sample, repair=repair, accept_loss=accept_loss, progress=tell))
    except (ShortlistError, BuildFailed) as error:
        # A failure of one collection does not stop the check of the others.
        problem = VerifyCheck(name="repair" if isinstance(error, BuildFailed) else "open", ok=False, detail=str(error))
        return VerifyReport(collection=name, ok=False, checks=(problem,))


def _verify_backup(
    folder: Path, collection: str | None, progress: Callable[[VerifyProgress], None]
) -> list[VerifyReport]:
    from shortlist_server.errors import ShortlistError
    from shortlist_server.storage.backups.verify import verify_backup

    def tell(name: str, step: str) -> None:
        progress(VerifyProgress(collection=name, step=step))

    try:
        return [_report(found) for found in verify_backup(folder, collection, progress=tell)]
    except ShortlistError as error:
        raise click.ClickException(error.message) from error


def _report(found: CollectionReport) -> VerifyReport:
    return VerifyReport(
        collection=found.name,
        ok=found.ok,
        checks=tuple(
            VerifyCheck(name=check.name, ok=check.ok, detail="" if check.ok else check.detail) for check in found.checks
        ),
        document_count=found.documents,
        passage_count=found.passages,
        segment_passage_count=found.segment_passages,
        growing_passage_count=found.growing_passages,
        sampled_count=found.sampled,
        reached_count=found.reached,
        repairs=tuple(found.repairs),
        notes=tuple(found.notes),
    )


def _print(reports: list[VerifyReport], *, as_json: bool, advice: bool) -> None:
    if as_json:
        output.print_json([dataclasses.asdict(report) for report in reports])
        return
    columns = ["collection", "result", "documents", "passages", "reached", "problems"]
    rows = [
        [
            report.collection,
            "ok" if report.ok else "DAMAGED",
            report.document_count,
            report.passage_count,
            f"{report.reached_count}/{report.sampled_count}",
            len(report.problems),
        ]
        for report in reports
    ]
    output.print_table(columns, rows, right=columns[2:], styles={"collection": "bold", "result": "cyan"})
    for report in reports:
        for check in report.problems:
            output.note(f"{report.collection}: {check.name}: {check.detail}")
        for line in (*report.repairs, *report.notes):
            output.note(f"{report.collection}: {line}")
    if advice and any(not report.ok for report in reports):
        output.note("--repair rebuilds indexes from the database; for a damaged database, restore a backup")
