"""A Kafka broker in memory, from the cluster that librdkafka carries for tests. SHELL: no Java, no Docker, no disk.

It speaks the real protocol on loopback, keeps 5 MB or 100,000 records per partition, then drops the oldest, and
forgets everything when it ends. Good for a first look and for fast tests, not for work that matters.
"""

import ctypes
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ERROR_BYTES = 512
_P, _I, _S = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "rd_kafka_conf_new": ([], _P),
    "rd_kafka_conf_set": ([_P, _S, _S, _S, ctypes.c_size_t], ctypes.c_int),
    "rd_kafka_new": ([ctypes.c_int, _P, _S, ctypes.c_size_t], _P),
    "rd_kafka_mock_cluster_new": ([_P, ctypes.c_int], _P),
    "rd_kafka_mock_cluster_destroy": ([_P], None),
    "rd_kafka_mock_cluster_bootstraps": ([_P], _S),
    "rd_kafka_mock_topic_create": ([_P, _S, ctypes.c_int, ctypes.c_int], ctypes.c_int),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": ([_P, _I], None),
    "rd_kafka_mock_broker_set_down": ([_P, _I], ctypes.c_int),
    "rd_kafka_mock_broker_set_up": ([_P, _I], ctypes.c_int),
    "rd_kafka_mock_partition_set_leader": ([_P, _S, _I, _I], ctypes.c_int),
    "rd_kafka_mock_push_request_errors_array": (
        [_P, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        None,
    ),
}


def _library() -> ctypes.CDLL:
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(iter(sorted(folder.glob("librdkafka*.so*"))))))
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


class MemoryKafka:
    """A cluster that lives as long as this object's process."""

    def __init__(self, topics: dict[str, int], brokers: int = 1) -> None:
        self._library = _library()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        conf = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(conf, b"log_level", b"2", error, _ERROR_BYTES)
        client = self._library.rd_kafka_new(0, conf, error, _ERROR_BYTES)
        if not client:
            raise RuntimeError(error.value.decode())
        self._cluster = self._library.rd_kafka_mock_cluster_new(client, brokers)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for name, partitions in topics.items():
            self.create_topic(name, partitions)

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic with one replica."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def set_leader(self, topic: str, partition: int, broker: int) -> None:
        """Move a partition to another broker."""
        self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker)

    def set_down(self, broker: int) -> None:
        """Let a broker refuse all connections."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def set_up(self, broker: int) -> None:
        """Let a broker answer again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def push_errors(self, api: int, codes: Sequence[int]) -> None:
        """Answer the next requests of an API (by its number) with these error codes, one each."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def close(self) -> None:
        """End the cluster; its data is gone."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)


def main(arguments: list[str]) -> int:
    """Run with `TOPIC:PARTITIONS …` until a signal comes; the first line of output is the address."""
    pairs = (argument.rpartition(":") for argument in arguments)
    cluster = MemoryKafka({name: int(partitions) for name, _, partitions in pairs})
    print(cluster.bootstrap, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main(sys.argv[1:]))
