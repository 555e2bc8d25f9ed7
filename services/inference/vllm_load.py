"""How busy is vLLM, by its own metrics? SHELL: reads the process's Prometheus registry, where vLLM keeps them."""

from prometheus_client import REGISTRY

from services.inference.engine import EngineLoad

_RUNNING, _WAITING, _KV_CACHE, _PREEMPTIONS = METRICS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
)


def read_load() -> EngineLoad | None:
    """Summed over the engine's replicas, the fullest cache of them; None when statistics are off."""
    found: dict[str, list[float]] = {}
    for metric in REGISTRY.restricted_registry(METRICS).collect():
        for sample in metric.samples:
            found.setdefault(sample.name, []).append(sample.value)
    if _RUNNING not in found:
        return None
    return EngineLoad(
        running=int(sum(found[_RUNNING])),
        waiting=int(sum(found.get(_WAITING, ()))),
        kv_cache_usage=max(found.get(_KV_CACHE, [0.0])),
        preemptions=int(sum(found.get(_PREEMPTIONS, ()))),
    )
