"""Numbers for Prometheus at `/metrics`."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server, in a registry of their own. For any thread."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "sana_requests", "Answered requests", ("api", "status"), registry=registry
        )
        self._pictures = Counter("sana_pictures", "Drawn pictures", ("model",), registry=registry)
        self._unfinished = Counter(
            "sana_unfinished_jobs",
            "Jobs that failed or were cancelled",
            ("how",),
            registry=registry,
        )
        self._stages = Histogram(
            "sana_stage_seconds", "Seconds of a picture, by stage", ("stage",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._waits = Histogram(
            "sana_queue_wait_seconds", "Seconds from a request to its first picture's start",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    def watch(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """Add a number that is read when somebody asks."""
        Gauge(name, help_, registry=self.registry).set_function(read)

    def answered(self, api: str, status: int) -> None:
        self._requests.labels(api, str(status)).inc()

    def waited(self, seconds: float) -> None:
        self._waits.observe(max(0.0, seconds))

    def drew(self, model: str, seconds: Mapping[str, float]) -> None:
        self._pictures.labels(model).inc()
        for stage, spent in seconds.items():
            self._stages.labels(stage).observe(spent)

    def ended(self, how: str) -> None:
        self._unfinished.labels(how).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
