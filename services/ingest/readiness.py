"""Would a batch run now? PURE: what is missing, by name, with the reason."""

from collections.abc import Collection


def missing(
    *,
    view_caught_up: bool,
    dispatching: bool,
    admitting: bool,
    stopping: bool,
    models: Collection[str],
    alive: Collection[str],
) -> dict[str, str]:
    """An empty mapping means ready. Unknown is not healthy: a model without a live worker is missing."""
    found = {}
    if stopping:
        found["ingest"] = "stopping"
    if not view_caught_up:
        found["kafka"] = "the view of the log is not caught up yet"
    if not dispatching:
        found["dispatcher"] = "has not joined its group yet"
    if not admitting:
        found["admission"] = "has not joined its group yet"
    for model in models:
        if model not in alive:
            found[f"workers/{model}"] = "no worker that serves this model is alive"
    return found
