"""Back-off and giving up."""

from cli.restarts import BACKOFF_MAX_S, DEATHS_BEFORE_READY_MAX, GOOD_LIFE_S, RestartPolicy


def test_waits_grow_and_end_when_it_never_gets_ready() -> None:
    policy = RestartPolicy()

    restarts = [policy.on_death(0.0, lived_s=1.0, was_ready=False) for _ in range(DEATHS_BEFORE_READY_MAX)]

    waits = [at for at in restarts if at is not None]
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert max(waits) <= BACKOFF_MAX_S
    assert restarts[-1] is None


def test_one_that_was_ready_is_never_given_up_and_waits_longer_after_short_lives() -> None:
    policy = RestartPolicy()

    restarts = [policy.on_death(0.0, lived_s=1.0, was_ready=True) for _ in range(50)]

    assert None not in restarts
    assert restarts[-1] == BACKOFF_MAX_S


def test_a_good_life_makes_the_wait_short_again() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.on_death(0.0, lived_s=1.0, was_ready=True)

    at = policy.on_death(0.0, lived_s=GOOD_LIFE_S, was_ready=True)

    assert at is not None
    assert at < 1
