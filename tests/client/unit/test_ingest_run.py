"""The ingest's state machine against a server made of plain messages."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from shortlist import (
    Ack,
    AckStatus,
    Deletion,
    Document,
    IngestFailed,
    IngestInterrupted,
    InternalError,
    InvalidArgument,
    ResumeMismatch,
    StreamConflict,
    StreamLost,
)
from shortlist._ingest_operations import operation_cost, prepare
from shortlist._ingest_run import IngestOptions, IngestRun
from shortlist._window import MAX_PENDING_OPERATIONS
from shortlist.v1 import document_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist_server import errors as server_errors
from shortlist_server.config import Config
from shortlist_server.rpc.convert.documents import operation_in
from shortlist_server.rpc.status import grpc_status


def make_run(**options: Any) -> IngestRun:
    defaults: dict[str, Any] = {
        "collection": "books",
        "stream": None,
        "resume": False,
        "checkpoint": None,
        "dry_run": False,
        "progress": None,
        "reconnect_seconds": 300.0,
    }
    return IngestRun(IngestOptions(**{**defaults, **options}), open_seconds=30.0, max_message_bytes=1_000_000)


def started(run: IngestRun, last: int = 0, credit: int = 100) -> None:
    run.start_request()
    run.receive(pb.IngestResponse(started=pb.IngestStarted(last_durable_position=last, credit_tokens=credit)))


def ack(run: IngestRun, *positions: int, status: Any = pb.ACK_STATUS_DURABLE) -> None:
    acks = [pb.IngestAck(position=position, id=f"d{position - 1}", status=status) for position in positions]
    run.receive(pb.IngestResponse(acks=pb.IngestAcks(acks=acks)))


def add(run: IngestRun, *operations: object) -> None:
    for operation in operations:
        run.add(run.prepare(operation))


def positions(batch: pb.IngestRequest | None) -> list[int]:
    return [] if batch is None else [operation.position for operation in batch.batch.operations]


def read(run: IngestRun) -> list[Ack]:
    return list(iter(lambda: run.next_ack(read=True), None))


def documents(count: int, text: str = "") -> list[Document]:
    return [Document(id=f"d{number}", title="t", text=text) for number in range(count)]


def test_nothing_is_read_or_sent_before_the_server_is_ready() -> None:
    run = make_run()
    run.start_request()
    assert not run.wants_operation()
    assert run.take_batch() is None


def test_positions_count_from_one_and_acks_from_zero() -> None:
    run = make_run()
    started(run)
    add(run, *documents(3))
    assert positions(run.take_batch()) == [1, 2, 3]
    ack(run, 1, 2, 3)
    assert [(a.index, a.id) for a in read(run)] == [(0, "d0"), (1, "d1"), (2, "d2")]


def test_no_more_is_sent_than_the_credit_and_acks_give_none_back() -> None:
    run = make_run()
    started(run, credit=3)
    add(run, *documents(5))
    assert positions(run.take_batch()) == [1, 2, 3]
    assert run.take_batch() is None
    ack(run, 1, 2)
    assert run.take_batch() is None
    run.receive(pb.IngestResponse(credit=pb.IngestCredit(tokens=2)))
    assert positions(run.take_batch()) == [4, 5]


def test_an_operation_larger_than_the_credit_goes_when_nothing_else_is_under_way() -> None:
    run = make_run()
    started(run, credit=10)
    add(run, *documents(1), Document(id="big", text="x" * 1000))
    assert positions(run.take_batch()) == [1]
    assert run.take_batch() is None
    ack(run, 1)
    assert positions(run.take_batch()) == [2]


def test_a_batch_is_no_larger_than_the_servers_largest_message() -> None:
    run = make_run()
    run.start_request()
    limits = pb.IngestStarted(credit_tokens=10**6, max_message_bytes=10_000)
    run.receive(pb.IngestResponse(started=limits))
    add(run, *documents(50, text="x" * 1000))
    sent = []
    while (batch := run.take_batch()) is not None:
        assert batch.ByteSize() <= 10_000
        sent += positions(batch)
    assert sent == list(range(1, 51))


def test_the_cost_is_that_of_the_contract() -> None:
    assert operation_cost(pb.IngestOperation(delete_id="x" * 100)) == 1 + 100 // 4
    document = prepare(Document(id="a", title="é", text="12345", vector=[0.0] * 32), 10_000)
    assert document.cost == 1 + 8 // 4 + 32 // 16
    assert operation_cost(pb.IngestOperation(upsert=document_pb2.Document(id="a", vector=[0.0] * 47))) == 1 + 47 // 16
    metadata = {"tags": ["a", "b"], "year": 2020}
    operation = prepare(Document(id="a", text="x", metadata=metadata), 10_000)
    assert operation.proto is not None
    assert operation.cost == 1 + (2 + operation.proto.upsert.metadata.ByteSize()) // 4 > 5
    assert operation.cost == operation_in(operation.proto, Config()).cost


def test_reading_stops_while_there_is_no_credit_or_too_much_is_pending() -> None:
    run = make_run()
    started(run, credit=2)
    add(run, *documents(2))
    assert not run.wants_operation()
    other = make_run()
    started(other, credit=10**9)
    while other.wants_operation():
        add(other, Deletion("x"))
        other.take_batch()
    assert other._window.first() is not None
    assert len(other._window) == MAX_PENDING_OPERATIONS


def test_after_a_break_everything_without_an_ack_is_sent_again_under_its_position() -> None:
    run = make_run()
    started(run)
    add(run, *documents(4))
    run.take_batch()
    ack(run, 1)
    started(run, last=2)
    assert positions(run.take_batch()) == [2, 3, 4]
    ack(run, 2, status=pb.ACK_STATUS_REPLAYED)
    ack(run, 3, 4)
    run.exhaust()
    assert [a.status for a in read(run)] == ["durable", "replayed", "durable", "durable"]
    assert run.summary().reconnects == 1
    assert run.summary().complete


def test_a_document_that_cannot_be_sent_fails_alone_and_in_its_place() -> None:
    run = make_run()
    started(run)
    add(run, Document(id="a", text="x"), Document(id="bad", text="\ud800"), Document(id="c", text="x"), 42)
    assert positions(run.take_batch()) == [1, 3]
    run.exhaust()
    assert read(run) == []
    ack(run, 1, 3)
    acks = read(run)
    assert [a.status for a in acks] == ["durable", "failed", "durable", "failed"]
    assert isinstance(acks[1].error, InvalidArgument)
    assert run.done()


def test_a_document_over_the_largest_message_is_not_sent() -> None:
    run = make_run()
    started(run, credit=10**9)
    add(run, Document(id="a", text="x" * 1_000_000))
    assert run.take_batch() is None
    (failed,) = read(run)
    assert failed.error is not None
    assert failed.error.reason == "DOCUMENT_TOO_LARGE"


def test_a_name_used_before_goes_on_after_what_it_has() -> None:
    run = make_run(stream="daily")
    started(run, last=10)
    add(run, *documents(1))
    assert positions(run.take_batch()) == [11]
    ack(run, 11)
    assert read(run)[0].index == 0


def test_a_name_without_positions_left_is_refused() -> None:
    run = make_run(stream="s")
    started(run, last=2**63 - 2)
    add(run, Document(id="last"))
    with pytest.raises(InvalidArgument) as caught:
        add(run, Document(id="one too many"))
    assert caught.value.field == "stream"
    assert positions(run.take_batch()) == [2**63 - 1]


def test_resuming_skips_what_the_server_has() -> None:
    run = make_run(stream="daily", resume=True)
    started(run, last=2)
    add(run, *documents(3))
    run.exhaust()
    assert positions(run.take_batch()) == [3]
    ack(run, 3)
    assert [a.index for a in read(run)] == [2]
    assert run.summary().skipped == 2


def test_resuming_with_fewer_operations_than_the_server_has_is_refused() -> None:
    run = make_run(stream="daily", resume=True)
    started(run, last=5)
    add(run, *documents(3))
    with pytest.raises(ResumeMismatch, match="only 3"):
        run.exhaust()


def test_a_server_that_lost_what_it_acknowledged_is_noticed() -> None:
    run = make_run()
    started(run)
    add(run, *documents(2))
    run.take_batch()
    ack(run, 1, 2)
    with pytest.raises(StreamLost):
        started(run, last=0)


def test_a_stream_that_somebody_else_moved_is_noticed() -> None:
    run = make_run()
    started(run)
    add(run, *documents(2))
    with pytest.raises(StreamConflict):
        started(run, last=9)


def test_what_a_killed_run_before_had_sent_is_not_somebody_elses(tmp_path: Path) -> None:
    path = tmp_path / "place"
    started(make_run(checkpoint=path))
    again = make_run(checkpoint=path)
    started(again, last=400)
    add(again, *documents(100))
    started(again, last=400)
    assert positions(again.take_batch())[0] == 1


def test_acks_out_of_order_break_the_protocol() -> None:
    run = make_run()
    started(run)
    add(run, *documents(3))
    with pytest.raises(InternalError, match="before 1"):
        ack(run, 2)


def test_failures_that_were_not_shown_raise_and_shown_ones_do_not() -> None:
    run = make_run()
    started(run)
    add(run, *documents(2))
    run.exhaust()
    ack(run, 1, 2, status=pb.ACK_STATUS_FAILED)
    assert run.next_ack(read=True) is not None
    while run.next_ack(read=False) is not None:
        pass
    with pytest.raises(IngestFailed, match="1 of 2") as caught:
        run.check()
    assert caught.value.summary.failed == 2
    assert len(caught.value.summary.failures) == 2


def test_a_run_that_was_cut_off_is_not_complete() -> None:
    run = make_run()
    started(run)
    run.stop_reading()
    assert run.done()
    with pytest.raises(IngestInterrupted):
        run.check()


def test_a_draining_server_gets_nothing_more_and_the_rest_goes_to_the_next() -> None:
    run = make_run()
    started(run)
    add(run, *documents(2))
    run.receive(pb.IngestResponse(draining=pb.IngestDraining()))
    assert run.take_batch() is None
    assert run.sent_all()
    assert not run.wants_operation()
    started(run)
    assert positions(run.take_batch()) == [1, 2]


class Broken(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, metadata: Any = ()) -> None:
        self._code = code
        self._metadata = metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return self._metadata


def test_breaks_are_waited_out_longer_and_longer_and_then_given_up() -> None:
    run = make_run(reconnect_seconds=300.0)
    started(run)
    waits = [run.retry_seconds(Broken(grpc.StatusCode.UNAVAILABLE)) for _ in range(20)]
    assert 0 < waits[0] <= 0.1
    assert 2.5 <= waits[-1] <= 5.0
    hasty = make_run(reconnect_seconds=0.05)
    started(hasty)
    hasty.retry_seconds(None)
    with pytest.raises(IngestInterrupted):
        while True:
            hasty.retry_seconds(None)


def test_what_another_connection_cannot_mend_is_raised() -> None:
    run = make_run()
    started(run)
    with pytest.raises(InvalidArgument):
        run.retry_seconds(Broken(grpc.StatusCode.INVALID_ARGUMENT))


def test_all_connections_of_a_run_have_one_id_and_no_other_run_has_it() -> None:
    run, other = make_run(stream="daily"), make_run(stream="daily")
    ids = [run.start_request().start.run_id for _ in range(2)]
    assert ids[0] == ids[1] != ""
    assert other.start_request().start.run_id not in ids


@pytest.mark.parametrize("opened", [True, False])
def test_a_stream_that_was_taken_over_is_not_taken_back(opened: bool) -> None:
    run = make_run(stream="daily")
    run.start_request()
    if opened:
        started(run)
    status = grpc_status(server_errors.StreamConflict("taken"))
    with pytest.raises(StreamConflict, match="taken"):
        run.retry_seconds(Broken(status.code, status.trailing_metadata))


def test_a_checkpoint_resumes_after_the_last_ack_the_caller_was_done_with(tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = make_run(checkpoint=path)
    started(run, last=0)
    add(run, *documents(3))
    run.take_batch()
    ack(run, 1, 2)
    ack(run, 3, status=pb.ACK_STATUS_FAILED)
    for _ in range(3):
        run.next_ack(read=True)
    run.keep_place()

    again = make_run(checkpoint=path)
    assert again.stream == run.stream
    started(again, last=3)
    add(again, *documents(5))
    # The caller had seen the third ack, but may have died with it in hand.
    assert positions(again.take_batch()) == [3, 4, 5]
    assert again.summary().durable == 2


def test_a_checkpoint_skips_no_operations_but_those_it_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = make_run(checkpoint=path)
    started(run)
    add(run, *documents(3))
    run.take_batch()
    ack(run, 1, 2)
    read(run)
    run.keep_place()

    again = make_run(checkpoint=path)
    started(again, last=2)
    add(again, documents(1)[0])
    with pytest.raises(ResumeMismatch, match="the first 2 operations"):
        add(again, Document(id="of today", text="x"))


def test_failures_before_a_kill_are_known_after_it(tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = make_run(checkpoint=path)
    started(run)
    add(run, *documents(1))
    run.take_batch()
    ack(run, 1, status=pb.ACK_STATUS_FAILED)
    while run.next_ack(read=False) is not None:
        pass
    run.keep_place()

    again = make_run(checkpoint=path)
    started(again, last=1)
    add(again, *documents(1))
    again.exhaust()
    assert again.done()
    with pytest.raises(IngestFailed) as caught:
        again.check()
    assert [a.id for a in caught.value.summary.failures] == ["d0"]
    assert caught.value.summary.failures[0].status is AckStatus.FAILED


def test_a_complete_run_leaves_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = make_run(checkpoint=path)
    started(run)
    assert path.exists()
    run.exhaust()
    run.complete()
    assert not path.exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "place"
    started(make_run(checkpoint=path))
    with pytest.raises(ResumeMismatch, match="books"):
        make_run(checkpoint=path, collection="films")
    path.write_text("half a fi")
    with pytest.raises(ResumeMismatch, match="not a checkpoint"):
        make_run(checkpoint=path)


@pytest.mark.parametrize(
    "options",
    [{"resume": True}, {"resume": True, "stream": "a", "checkpoint": "p"}, {"dry_run": True, "checkpoint": "p"}],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        make_run(**options)


def test_progress_is_called_once_for_each_batch_of_acks() -> None:
    seen: list[int] = []
    run = make_run(progress=lambda summary: seen.append(summary.acked))
    started(run)
    add(run, *documents(3))
    run.take_batch()
    ack(run, 1, 2)
    read(run)
    ack(run, 3)
    read(run)
    assert seen == [2, 3]
