"""Was this request admitted before? PURE: ids in, yes or no out, within a window.

One partition of `admitted` has one of these; every record about a request lies in the same partition.
"""

from collections import OrderedDict


class SeenRequests:
    """Requests of the last `window_ms`, at most `num_max` of them, by a hash that holds within this process."""

    def __init__(self, window_ms: int, num_max: int) -> None:
        self._window_ms = window_ms
        self._num_max = num_max
        self._seen: OrderedDict[int, int] = OrderedDict()

    def is_new(self, tenant: str, request: str, at_ms: int) -> bool:
        """Note a request, by the time of its record; False for one that is in the window."""
        key = hash((tenant, request))
        before = self._seen.get(key)
        if before is not None and at_ms - before <= self._window_ms:
            return False
        self._seen[key] = at_ms
        self._seen.move_to_end(key)
        if len(self._seen) > self._num_max:
            self._seen.popitem(last=False)
        return True
