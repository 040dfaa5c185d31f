"""A large deletion that cannot go on gives back the space of what it deleted."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from shortlist_server.errors import OutOfSpace
from shortlist_server.storage.rows.deletion import BulkDeletion
from shortlist_server.storage.rows.writer import Task


@pytest.mark.parametrize(("deletes", "reclaims"), [(2, True), (1, False)])
def test_space_is_given_back_after_a_deletion_that_a_full_disk_ends(deletes: int, reclaims: bool) -> None:
    left, reclaimed, failed = deletes, 0, False

    def submit(task: Task[Any]) -> Future[Any]:
        nonlocal left, reclaimed, failed
        done: Future[Any] = Future()
        if left:
            left -= 1
            done.set_result(task.weight)
        elif not failed:
            done.set_exception(OutOfSpace("full"))
            failed = task.weight == 1  # Smaller steps are tried first.
        else:
            reclaimed += 1
            done.set_result(True)
        return done

    deletion = BulkDeletion(submit, lambda effect: None)
    with pytest.raises(OutOfSpace):
        deletion.delete(range(2000)).result(0)
    assert (reclaimed > 0) is reclaims
    assert not deletion.reclaiming
