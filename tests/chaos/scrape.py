"""Are the pages of metrics right while everything dies? A scraper of our own, which also asks who is ready in the end.

What is asked of a page: it can be read; its counters never go down while its process lives; no label names a batch,
a file or a request; and the number of series has a bound. Processes that are dead or stopped do not answer, and that
is all right until the calm.
"""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.verifier import Finding

SCRAPE_INTERVAL_S, SCRAPE_TIMEOUT_S = 1.0, 2.0
# Of one process; more would mean that labels multiply.
SERIES_MAX = 1_500
_ID = re.compile(r"batch_[0-9a-f]{8}|file-|req_|[0-9a-f]{24}")
OURS = ("headrace_", "gen_ai_", "messaging_")

Series = tuple[str, tuple[tuple[str, str], ...]]


class Scraper:
    """Looks at all pages on a thread of its own; `pages` are their addresses by the process's name."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._pages = pages
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)
        self._client = httpx2.Client(timeout=SCRAPE_TIMEOUT_S)
        # Of the process that lives now: when it began, and its counters.
        self._lives: dict[str, float] = {}
        self._counters: dict[str, dict[Series, float]] = defaultdict(dict)
        # Of processes that are gone: what was last seen of their counters.
        self._before: dict[str, float] = defaultdict(float)
        self.num_scrapes = 0
        self.findings: list[Finding] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        self._thread.join()

    def check(self, num_closed: int | None, timeout_s: float) -> list[Finding]:
        """In the calm: everybody is ready and can be looked at, and no batch was counted twice."""
        missing = dict(self._pages)
        deadline = time.monotonic() + timeout_s
        while missing and time.monotonic() < deadline:
            for name in list(missing):
                if self._scrape(name) and self._is_ready(missing[name]):
                    del missing[name]
            time.sleep(0.2)
        found = [Finding("metrics", name, "is not ready, or shows nothing, after the last fault") for name in missing]
        counted = self._total("headrace_batches_closed_total")
        # An increment that was not scraped before its process died is gone; none is made twice.
        if num_closed is not None and counted > num_closed:
            found.append(Finding("metrics", "", f"{counted:.0f} batches counted as closed, {num_closed} there are"))
        self._client.close()
        return self.findings + found

    def _run(self) -> None:
        while not self._over.wait(SCRAPE_INTERVAL_S):
            for name in self._pages:
                self._scrape(name)

    def _scrape(self, name: str) -> bool:
        try:
            answer = self._client.get(self._pages[name])
        except httpx2.HTTPError:
            return False
        if answer.status_code != 200:
            self._find(name, f"the page answers {answer.status_code}")
            return False
        self.num_scrapes += 1
        try:
            self._read(name, answer.text)
        except ValueError as error:
            self._find(name, f"the page cannot be read: {error}")
        return True

    def _read(self, name: str, page: str) -> None:
        families = text_string_to_metric_families(page)
        samples = [(family.type, sample) for family in families for sample in family.samples]
        born = next((s.value for _, s in samples if s.name == "process_start_time_seconds"), 0.0)
        if born != self._lives.get(name):
            self._lives[name] = born
            for (counter, _), value in self._counters.pop(name, {}).items():
                self._before[counter] += value
        if len(samples) > SERIES_MAX:
            self._find(name, f"{len(samples)} series")
        for kind, sample in samples:
            series = sample.name, tuple(sorted(sample.labels.items()))
            if sample.name.startswith(OURS) and any(_ID.search(value) for _, value in series[1]):
                self._find(name, f"a label names something: {series}")
            if kind == "counter" and not sample.name.endswith("_created"):
                if sample.value < self._counters[name].get(series, 0.0):
                    self._find(name, f"{series} went down to {sample.value}")
                self._counters[name][series] = sample.value

    def _is_ready(self, page: str) -> bool:
        try:
            return self._client.get(page.replace("/metrics", "/readyz")).status_code == 200
        except httpx2.HTTPError:
            return False

    def _total(self, counter: str) -> float:
        living = (v for mine in self._counters.values() for (name, _), v in mine.items() if name == counter)
        return self._before[counter] + sum(living)

    def _find(self, name: str, text: str) -> None:
        finding = Finding("metrics", name, text)
        if finding not in self.findings:
            self.findings.append(finding)
