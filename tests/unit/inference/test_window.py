"""The window follows the engine's signals, between a floor and a cap."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.engine import EngineLoad
from services.inference.throughput import Throughput
from services.inference.window import FETCH_MAX, LOOK_AHEAD_MAX, WindowLimits, lines_to_fetch, look_ahead, next_window

LIMITS = WindowLimits.of(100)


def after(window: int, load: EngineLoad, *, num_inside: int | None = None, num_preempted: int = 0) -> int:
    inside = window if num_inside is None else num_inside
    return next_window(window, LIMITS, load, num_inside=inside, num_preempted=num_preempted)


def test_limits_come_from_what_runs_at_once_or_are_fixed() -> None:
    assert WindowLimits(150, 25, 200) == LIMITS
    assert WindowLimits.of(1) == WindowLimits(2, 1, 2)
    assert WindowLimits.of(100, fixed=7) == WindowLimits(7, 7, 7)


def test_full_engine_with_some_waiting_is_left_alone() -> None:
    assert after(150, EngineLoad(running=100, waiting=50, kv_cache_usage=0.5)) == 150


def test_engine_that_took_all_gets_more_up_to_the_cap() -> None:
    load = EngineLoad(running=100, waiting=0)
    assert after(150, load) == 188
    assert after(188, load) == 200
    assert after(150, load, num_inside=20) == 150, "there was nothing more to give"


def test_window_follows_what_fits_into_the_cache() -> None:
    assert after(150, EngineLoad(running=40, waiting=110, kv_cache_usage=0.97)) == 60
    assert after(150, EngineLoad(running=4, waiting=146, kv_cache_usage=0.97)) == 25, "the floor"


def test_preemption_shrinks_at_once_and_the_way_back_is_gradual() -> None:
    shrunk = after(150, EngineLoad(running=80, waiting=70, kv_cache_usage=0.99), num_preempted=3)
    assert shrunk == 72
    assert after(shrunk, EngineLoad(running=60, waiting=12, kv_cache_usage=0.6)) == 90
    assert after(140, EngineLoad(running=100, waiting=40, kv_cache_usage=0.6)) == 150, "not beyond the start"


@given(
    st.integers(1, 500),
    st.integers(0, 500),
    st.integers(0, 500),
    st.floats(0, 1),
    st.integers(0, 500),
    st.integers(0, 9),
)
def test_window_stays_between_floor_and_cap(
    window: int, running: int, waiting: int, usage: float, inside: int, preempted: int
) -> None:
    load = EngineLoad(running, waiting, usage)
    found = next_window(window, LIMITS, load, num_inside=inside, num_preempted=preempted)
    assert LIMITS.floor <= found <= LIMITS.cap


def test_look_ahead_is_some_seconds_of_work_but_at_least_a_window() -> None:
    assert look_ahead(12, None) == 96
    assert look_ahead(12, 30.0) == 300
    assert look_ahead(12, 0.1) == 12
    assert look_ahead(384, 5_000.0) == LOOK_AHEAD_MAX


def test_polls_are_neither_tiny_nor_huge() -> None:
    assert [lines_to_fetch(room, 40) for room in (-3, 0, 9, 10, 40)] == [0, 0, 0, 10, 40]
    assert lines_to_fetch(1, 1) == 1
    assert lines_to_fetch(10_000, 512) == FETCH_MAX


def test_speed_is_that_of_the_time_with_work() -> None:
    speed = Throughput()
    speed.note(1, 0.0, is_idle=False)
    speed.note(50, 0.5, is_idle=False)
    assert speed.lines_per_second is None
    speed.note(50, 1.0, is_idle=True)
    assert speed.lines_per_second == 100

    speed.note(7, 900.0, is_idle=False)  # the idle quarter of an hour does not count
    speed.note(200, 901.0, is_idle=False)
    assert speed.lines_per_second == 150
