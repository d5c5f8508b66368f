"""The bus tells everything to everybody in order, and no reader can disturb another. The set of events is closed."""

import dataclasses
from typing import get_args

import pytest

from router import events
from router.events import Bus, ConfigRejected, DrainStarted, Event

FIRST = DrainStarted(at=1, running=2)
SECOND = ConfigRejected(at=2, problems=("routing.yaml:3: no such key",))


def reader_into(log, name):
    """Return a reader that writes down its name with what it hears."""
    return lambda event: log.append((name, event))


def test_each_event_goes_to_each_reader_in_the_order_of_subscription_before_the_next_event():
    bus, log = Bus(), []
    for name in ("metrics", "logs", "waiters"):
        bus.subscribe(reader_into(log, name))

    bus.emit(FIRST, SECOND)

    assert log == [(name, event) for event in (FIRST, SECOND) for name in ("metrics", "logs", "waiters")]
    assert bus.failures == 0


def test_a_reader_that_raises_is_counted_and_skipped():
    bus, log = Bus(), []

    def break_down(event):
        msg = "the disk of the log is full"
        raise OSError(msg)

    bus.subscribe(reader_into(log, "before"))
    bus.subscribe(break_down)
    bus.subscribe(reader_into(log, "after"))

    bus.emit(FIRST, SECOND)

    assert log == [("before", FIRST), ("after", FIRST), ("before", SECOND), ("after", SECOND)]
    assert bus.failures == 2


def test_the_end_of_the_process_is_no_failure_of_a_reader():
    bus = Bus()

    def stop(event):
        raise KeyboardInterrupt

    bus.subscribe(stop)

    with pytest.raises(KeyboardInterrupt):
        bus.emit(FIRST)
    assert bus.failures == 0


def test_a_reader_that_took_itself_away_hears_no_more_and_the_others_do():
    bus, log = Bus(), []
    leave = bus.subscribe(reader_into(log, "gone"))
    bus.subscribe(reader_into(log, "there"))

    bus.emit(FIRST)
    leave()
    bus.emit(SECOND)

    assert log == [("gone", FIRST), ("there", FIRST), ("there", SECOND)]


def test_a_reader_may_leave_while_it_is_being_told():
    bus, log = Bus(), []

    def hear_once(event):
        log.append(("once", event))
        leave()

    leave = bus.subscribe(hear_once)
    bus.subscribe(reader_into(log, "next"))

    bus.emit(FIRST, SECOND)

    assert log == [("once", FIRST), ("next", FIRST), ("next", SECOND)]


def test_nobody_needs_to_listen():
    bus = Bus()

    bus.emit(FIRST)

    assert bus.failures == 0


def test_every_record_of_the_module_is_an_event_frozen_and_with_its_instant_first():
    records = {
        record
        for record in vars(events).values()
        if isinstance(record, type) and record.__module__ == events.__name__ and record is not Bus
    }

    assert records == set(get_args(Event))
    for record in records:
        assert dataclasses.fields(record)[0].name == "at"
        assert record.__dataclass_params__.frozen
        assert record.__doc__
