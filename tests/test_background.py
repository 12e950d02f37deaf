"""Loading in a thread while the command goes on."""

import threading

import pytest

from kleinod.cli.background import load_in_background
from kleinod.errors import FilterError
from kleinod.safety import guard
from kleinod.safety.guard import Guard
from kleinod.safety.policy import Policy


def test_load_runs_beside_the_caller() -> None:
    may_end, done = threading.Event(), []

    def load() -> None:
        assert may_end.wait(10)
        done.append(True)

    thread = load_in_background(load)
    assert not done
    may_end.set()
    thread.join(10)
    assert done == [True]


def test_filters_are_loaded_once_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(guard, "_loaded", lambda policy: calls.append(policy) or [])
    own = Guard(Policy())
    thread = load_in_background(lambda: own.filters)
    assert own.filters == []
    thread.join(10)
    assert len(calls) == 1


def test_error_is_raised_where_the_filters_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(policy: Policy) -> list[guard.Filter]:
        raise FilterError("safety filter words cannot load")

    monkeypatch.setattr(guard, "_loaded", fail)
    own = Guard(Policy())
    load_in_background(lambda: own.filters).join(10)
    with pytest.raises(FilterError):
        own.check_prompt("a fox")
