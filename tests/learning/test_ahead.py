"""Work ahead: in order, no further than asked, and nothing left behind."""

from __future__ import annotations

import threading
import time

import pytest

from seglab.learning.ahead import ahead


def left_over() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def late_if_even(item: int) -> int:
        time.sleep(0.002 * (item % 2 == 0))
        return 10 * item

    assert list(ahead(late_if_even, range(40), threads)) == [10 * item for item in range(40)]
    assert list(ahead(late_if_even, [], threads)) == []
    assert not left_over()


def test_as_many_threads_work_at_once_as_were_asked_for() -> None:
    together = threading.Barrier(3)
    # A barrier lets nobody through before all three have come.
    assert len(list(ahead(lambda _: together.wait(timeout=30), range(9), threads=3))) == 9


@pytest.mark.parametrize("threads", [1, 4])
def test_no_more_is_prepared_than_a_few_results(threads: int) -> None:
    taken: list[int] = []
    stream = ahead(lambda item: item, (taken.append(n) or n for n in range(1000)), threads)
    for expected in range(20):
        assert next(stream) == expected
        assert len(taken) <= expected + threads + 2
    stream.close()  # type: ignore[attr-defined]
    assert not left_over()


def test_an_error_is_raised_where_its_result_is_due() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("broken")
        return item

    stream = ahead(work, range(5), threads=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(stream)
    assert not left_over()
