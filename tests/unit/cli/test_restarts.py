"""Back-off and giving up."""

from cli.restarts import BACKOFF_MAX_S, DEATHS_MAX, DEATHS_WINDOW_S, RestartPolicy


def test_waits_grow_and_end() -> None:
    policy = RestartPolicy()

    restarts = [policy.on_death(float(now)) for now in range(DEATHS_MAX)]

    waits = [at - now for now, at in enumerate(restarts) if at is not None]
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert max(waits) <= BACKOFF_MAX_S
    assert restarts[-1] is None


def test_old_deaths_are_forgotten() -> None:
    policy = RestartPolicy()

    restarts = [policy.on_death(n * DEATHS_WINDOW_S) for n in range(3 * DEATHS_MAX)]

    assert None not in restarts
