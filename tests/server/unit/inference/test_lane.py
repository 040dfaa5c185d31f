"""The lane: batching, bounds, deadlines, cancellation, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait

import pytest

from shortlist_server.domain import Deadline
from shortlist_server.errors import DeadlineExceeded, InferenceFailed, Overloaded, Unavailable
from shortlist_server.inference.lane import Lane, LaneLimits
from shortlist_server.inference.precedence import Precedence

FOREVER = Deadline(float("inf"))


class Model:
    """Doubles numbers, records its batches, fails on 13 and exhausts its memory on batches of more than ``memory``."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.memory = 10**9

    def run(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append(list(items))
        if len(items) > self.memory:
            raise MemoryError
        if 13 in items:
            raise ValueError("unlucky")
        return [ArithmeticError("negative") if item < 0 else 2 * item for item in items]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def lane(model: Model) -> Iterator[Lane[int, int]]:
    limits = LaneLimits(batch_cost=10, batch_items=4, window_batches=4, queue_cost=40)
    lane: Lane[int, int] = Lane("test", model.run, limits)
    yield lane
    model.gate.set()
    lane.close()


def hold(lane: Lane[int, int], model: Model) -> None:
    """Makes the lane busy with one item, so that what follows waits in the queue."""
    model.gate.clear()
    model.entered.clear()
    lane.submit([(0, 1)], FOREVER)
    assert model.entered.wait(10)


def test_results_come_back_to_their_items(lane: Lane[int, int]) -> None:
    futures = lane.submit([(item, item) for item in (5, 1, 9, 3)], FOREVER)
    assert [future.result(10) for future in futures] == [10, 2, 18, 6]


def test_a_backlog_is_sorted_by_cost_and_cut_by_padded_cost_and_items(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    futures = lane.submit([(cost, cost) for cost in (4, 1, 9, 2, 1, 5, 1, 1, 3)], FOREVER)
    model.gate.set()
    wait(futures, 10)
    assert model.batches[1:] == [[1, 1, 1, 1], [2, 3], [4, 5], [9]]
    assert all(len(batch) * max(batch) <= 10 for batch in model.batches[1:])


def test_a_full_queue_refuses_and_says_when_to_come_back(lane: Lane[int, int], model: Model) -> None:
    lane.submit([(1, 1)], FOREVER)[0].result(10)
    hold(lane, model)
    lane.submit([(1, 30)], FOREVER)
    with pytest.raises(Overloaded) as refusal:
        lane.submit([(1, 11)], FOREVER)
    assert refusal.value.retry_after_seconds is not None
    assert refusal.value.retry_after_seconds > 0
    lane.submit([(1, 10)], FOREVER)


def test_an_item_larger_than_the_queue_is_taken_when_the_queue_is_empty(lane: Lane[int, int]) -> None:
    assert lane.submit([(7, 1000)], FOREVER)[0].result(10) == 14


def test_an_overdue_item_is_dropped_and_its_neighbour_run(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    deadline = Deadline.after(0.01)
    (late,) = lane.submit([(1, 1)], deadline)
    (early,) = lane.submit([(2, 1)], FOREVER)
    while deadline.left_seconds() > 0:
        time.sleep(0.001)
    model.gate.set()
    assert early.result(10) == 4
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert model.batches == [[0], [2]]


def test_a_cancelled_item_is_never_run(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    gone, kept = lane.submit([(1, 1), (2, 1)], FOREVER)
    assert gone.cancel()
    model.gate.set()
    assert kept.result(10) == 4
    assert model.batches == [[0], [2]]
    with pytest.raises(CancelledError):
        gone.result()


def test_one_bad_item_fails_alone(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    futures = lane.submit([(item, 1) for item in (11, 12, 13, 14)], FOREVER)
    model.gate.set()
    wait(futures, 10)
    assert [future.result() for future in futures if not future.exception()] == [22, 24, 28]
    error = futures[2].exception()
    assert isinstance(error, InferenceFailed)
    assert isinstance(error.__cause__, ValueError)


def test_an_exception_in_a_results_place_is_that_items(lane: Lane[int, int]) -> None:
    good, bad = lane.submit([(1, 1), (-1, 1)], FOREVER)
    assert good.result(10) == 2
    assert isinstance(bad.exception(10), InferenceFailed)


def test_a_batch_that_exhausts_memory_is_halved(lane: Lane[int, int], model: Model) -> None:
    model.memory = 1
    hold(lane, model)
    futures = lane.submit([(item, 1) for item in (1, 2, 3, 4)], FOREVER)
    model.gate.set()
    assert [future.result(10) for future in futures] == [2, 4, 6, 8]


def test_a_batch_that_no_machine_could_take_fails_at_once(model: Model) -> None:
    calls = []

    def run(items: Sequence[int]) -> Sequence[int | Exception]:
        calls.append(len(items))
        raise Unavailable("gone")

    lane: Lane[int, int] = Lane(
        "test", run, LaneLimits(batch_cost=100, batch_items=8, window_batches=1, queue_cost=400)
    )
    futures = lane.submit([(item, 1) for item in range(8)], FOREVER)
    assert all(isinstance(future.exception(10), Unavailable) for future in futures)
    assert calls == [8]
    lane.close()


def test_the_thread_survives_what_no_model_should_raise(model: Model) -> None:
    answers = iter([SystemExit("out"), KeyboardInterrupt(), None])

    def run(items: Sequence[int]) -> Sequence[int | Exception]:
        if (error := next(answers)) is not None:
            raise error
        return list(items)

    lane: Lane[int, int] = Lane("test", run, LaneLimits(batch_cost=10, batch_items=4, window_batches=1, queue_cost=40))
    for _ in range(2):
        assert isinstance(lane.submit([(1, 1)], FOREVER)[0].exception(10), InferenceFailed)
    assert lane.submit([(1, 1)], FOREVER)[0].result(10) == 1
    lane.close()


def test_background_work_waits_for_all_other_work(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    later = lane.submit([(item, 5) for item in (101, 102, 103, 104)], FOREVER, background=True)
    first = lane.submit([(item, 5) for item in (1, 2, 3, 4)], FOREVER)
    model.gate.set()
    wait([*later, *first], 10)
    assert model.batches[1:] == [[1, 2], [3, 4], [101, 102], [103, 104]]


def test_other_work_goes_between_two_background_batches() -> None:
    batches: list[int] = []
    first: list[Future[int]] = []

    def run(items: Sequence[int]) -> Sequence[int | Exception]:
        batches.extend(items)
        if items[0] == 101:
            first.extend(made.submit([(item, 10) for item in (1, 2)], FOREVER))
        return list(items)

    made: Lane[int, int] = Lane("test", run, LaneLimits(batch_cost=10, batch_items=4, window_batches=4, queue_cost=40))
    wait(made.submit([(item, 10) for item in (101, 102, 103)], FOREVER, background=True), 10)
    assert batches == [101, 1, 2, 102, 103]
    made.close()


def test_background_work_waits_for_the_work_of_other_lanes_but_not_for_ever(model: Model) -> None:
    limits = LaneLimits(batch_cost=10, batch_items=4, window_batches=4, queue_cost=40)
    precedence, other = Precedence(), Model()
    lanes: list[Lane[int, int]] = [Lane("test", one.run, limits, None, precedence) for one in (model, other)]
    (quick,) = lanes[0].submit([(1, 1)], FOREVER, background=True)
    assert quick.result(10) == 2
    precedence.background_ran(0.1)  # As if that had taken long: the next one waits up to four times as long.
    hold(lanes[1], other)
    began = time.monotonic()
    (waiting,) = lanes[0].submit([(2, 1)], FOREVER, background=True)
    assert waiting.result(10) == 4
    assert 0.3 < time.monotonic() - began < 5
    precedence.background_ran(100.0)
    (waiting,) = lanes[0].submit([(3, 1)], FOREVER, background=True)
    time.sleep(0.1)
    assert not waiting.done()
    other.gate.set()
    assert waiting.result(10) == 6
    for lane in lanes:
        lane.close()


def test_background_work_fills_no_queue_of_other_work(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    lane.submit([(1, 40)], FOREVER, background=True)
    with pytest.raises(Overloaded):
        lane.submit([(1, 1)], FOREVER, background=True)
    assert lane.submit([(1, 40)], FOREVER)
    assert lane.queued_cost == 80


def test_closing_fails_background_work_too(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    futures = lane.submit([(item, 10) for item in (1, 2)], FOREVER, background=True)
    closer = threading.Thread(target=lane.close)
    closer.start()
    assert all(isinstance(future.exception(10), Unavailable) for future in futures)
    model.gate.set()
    closer.join(10)
    assert not closer.is_alive()


def test_closing_fails_what_waits_and_lets_what_runs_finish(lane: Lane[int, int], model: Model) -> None:
    hold(lane, model)
    (waiting,) = lane.submit([(1, 1)], FOREVER)
    closer = threading.Thread(target=lane.close)
    closer.start()
    assert isinstance(waiting.exception(10), Unavailable)
    model.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    with pytest.raises(Unavailable):
        lane.submit([(1, 1)], FOREVER)
    lane.close()


def test_every_future_is_completed_whatever_happens(lane: Lane[int, int]) -> None:
    futures = []
    for number in range(200):
        try:
            futures += lane.submit([(number % 15, 1), (-number, 2)], Deadline.after(0.001 * (number % 7)))
        except Overloaded:
            time.sleep(0.001)
        if futures and number % 5 == 0:
            futures[-1].cancel()
    done, waiting = wait(futures, 20)
    assert not waiting
    assert len(done) > 20
