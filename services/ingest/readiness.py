"""Would a batch run now? PURE: all that is needed for it, by name, with the reason where it is missing."""

from collections.abc import Collection, Mapping


def needs(
    dependencies: Mapping[str, str | None],
    *,
    view_caught_up: bool,
    dispatching: bool,
    admitting: bool,
    stopping: bool,
    models: Collection[str],
    alive: Collection[str],
) -> dict[str, str | None]:
    """None means ready. Unknown is not healthy: a model without a live worker is missing."""
    not_joined = "has not joined its group yet"
    return {
        **dependencies,
        "ingest": "stopping" if stopping else None,
        "view": None if view_caught_up else "the view of the log is not caught up yet",
        "dispatcher": None if dispatching else not_joined,
        "admission": None if admitting else not_joined,
        **{f"workers/{m}": None if m in alive else "no worker that serves this model is alive" for m in models},
    }
