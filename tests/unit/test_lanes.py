"""Who goes next, who waits for room, and that no row is lost or run twice."""

import random
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from taskvec.core.embedder import Lane
from taskvec.core.errors import BusyError
from taskvec.core.lanes import PATIENCE_S, Lanes
from taskvec.core.requests import Request, Row
from taskvec.core.windows import Window


def call(lane: Lane = "bulk", rows: int = 1) -> Request:
    return Request(lane=lane, slots=rows, rows=rows, dim=1)


def rows_of(request: Request, lengths: Sequence[int]) -> list[Row]:
    ids = [np.zeros(length, np.int32) for length in lengths]
    return [Row(Window(row, ((0, len(row), 0),)), None, request, len(row)) for row in ids]


def lanes(*, budget: int = 10, bound: int = 1000, ahead: int = 1000) -> Lanes:
    return Lanes(budget=budget, bound=bound, ahead=ahead)


def test_queries_go_first_and_take_no_bulk_rows_along() -> None:
    made = lanes()
    bulk, query = call(), call("query")
    made.put(bulk, rows_of(bulk, [2, 2]))
    made.put(query, rows_of(query, [3]))
    assert [row.request for row in made.take()] == [query]
    assert [row.request for row in made.take()] == [bulk, bulk]
    assert made.take() == []


def test_bulk_rows_get_a_batch_once_queries_have_run_for_long_enough() -> None:
    made = lanes()
    bulk = call()
    made.put(bulk, rows_of(bulk, [9] * 50))
    order: list[Lane] = []
    for _ in range(40):
        query = call("query")
        made.put(query, rows_of(query, [9]))
        lane = made.take()[0].request.lane
        made.ran(lane, PATIENCE_S / 4)
        order.append(lane)
    assert order[:10] == ["query"] * 4 + ["bulk"] + ["query"] * 4 + ["bulk"]


def test_a_bulk_job_alone_does_not_make_itself_due_before_a_query() -> None:
    made = lanes()
    bulk = call()
    made.put(bulk, rows_of(bulk, [9] * 50))
    for _ in range(10):
        made.ran(made.take()[0].request.lane, 10 * PATIENCE_S)
    query = call("query")
    made.put(query, rows_of(query, [1]))
    assert made.take()[0].request is query


def test_a_short_call_does_not_wait_for_the_whole_of_a_long_one() -> None:
    made = lanes()
    long, short, third = call(), call(), call()
    made.put(long, rows_of(long, [5] * 100))
    made.put(short, rows_of(short, [5, 5]))
    made.put(third, rows_of(third, [5]))
    heads = [[row.request for row in made.take()] for _ in range(3)]
    assert heads == [[long, long], [short, short], [third, long]]


def test_a_batch_keeps_to_the_budget_and_a_longer_row_runs_alone() -> None:
    made = lanes(budget=10)
    request = call()
    made.put(request, rows_of(request, [25, 6, 4, 3, 8]))
    assert [[row.tokens for row in made.take()] for _ in range(4)] == [[25], [6, 4], [3], [8]]


def test_beyond_the_bound_rows_wait_and_no_late_one_overtakes() -> None:
    made = lanes(budget=10, bound=20)
    queue = made.queues["bulk"]
    first, second, late = call(), call(), call()
    made.put(first, rows_of(first, [10, 10]))
    made.put(second, rows_of(second, [15]))
    made.put(late, rows_of(late, [1]))
    assert (queue.rows, queue.tokens, queue.outside) == (2, 20, (second, late))
    made.take()
    assert queue.outside == (second, late)  # its one token would fit, but it came later
    made.take()
    assert queue.outside == ()
    assert [row.request for row in made.take() + made.take()] == [second, late]


def test_who_will_not_wait_is_told_how_much_waits_and_what_is_allowed() -> None:
    made = lanes(bound=20)
    request = call()
    made.check_room("bulk", 500)  # nothing waits: whatever is long may come in
    made.put(request, rows_of(request, [15]))
    made.check_room("bulk", 5)
    made.check_room("query", 50)
    with pytest.raises(BusyError, match=r"bulk lane is full: 15 tokens wait.* bound is 20"):
        made.check_room("bulk", 6)


def test_a_row_longer_than_the_bound_enters_an_empty_queue() -> None:
    made = lanes(bound=20)
    before, request = call(), call()
    made.put(before, rows_of(before, [1]))
    made.put(request, rows_of(request, [50]))
    assert made.queues["bulk"].outside == (request,)
    assert [row.tokens for row in made.take()] == [1]
    assert [row.tokens for row in made.take()] == [50]


def test_dropping_a_call_makes_room_at_once() -> None:
    made = lanes(bound=20)
    queue = made.queues["bulk"]
    gone, half, waiting = call(), call(), call()
    made.put(gone, rows_of(gone, [10, 10]))
    made.put(half, rows_of(half, [5] * 9))
    made.put(waiting, rows_of(waiting, [5]))
    made.drop(gone)
    assert (queue.tokens, queue.outside) == (20, (half, waiting))
    made.drop(half)
    assert (queue.rows, queue.tokens, queue.outside) == (1, 5, ())
    made.drop(waiting)
    made.drop(waiting)
    assert (queue.rows, queue.tokens) == (0, 0)


def test_a_call_is_asked_for_more_before_its_rows_run_out() -> None:
    made = lanes(budget=10, ahead=20)
    request = call()
    assert made.put(request, rows_of(request, [10]))
    assert not made.put(request, rows_of(request, [10] * 3))
    more: Future[None] = Future()
    request.more = more
    made.take()
    assert not more.done()
    made.take()
    assert more.done()
    assert request.queued == 20


@pytest.mark.parametrize("seed", range(20))
def test_every_row_runs_once_or_is_dropped(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    made = lanes(budget=30, bound=60, ahead=40)
    put: dict[Request, int] = {}
    ran: dict[Request, int] = {}
    dropped = set()
    for _ in range(300):
        action = rng.random()
        if action < 0.4:
            request = call(rng.choice(("query", "bulk")))
            lengths = [rng.randint(1, 90) for _ in range(rng.randint(1, 6))]
            made.put(request, rows_of(request, lengths))
            put[request] = len(lengths)
        elif action < 0.5 and put:
            request = rng.choice(list(put))
            dropped.add(request)
            made.drop(request)
        else:
            for row in made.take():
                ran[row.request] = ran.get(row.request, 0) + 1
                assert row.request not in dropped
    while batch := made.take():
        for row in batch:
            ran[row.request] = ran.get(row.request, 0) + 1
    assert {r: n for r, n in ran.items() if r not in dropped} == {
        r: n for r, n in put.items() if r not in dropped
    }
    assert all((q.rows, q.tokens, q.outside) == (0, 0, ()) for q in made.queues.values())
    assert all(request.queued == 0 for request in put)
