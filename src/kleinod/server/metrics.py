"""What Prometheus is told: counters that are kept here, the rest asked for when it scrapes."""

from collections.abc import Iterator, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kleinod.engine import Engine
from kleinod.memory import peak_bytes
from kleinod.server.job_queue.job import Job

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300)


class Metrics:
    """One server's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._jobs = Counter(
            "kleinod_jobs", "Jobs ended here", ("model", "api", "status"), registry=self.registry
        )
        self._moderated = Counter(
            "kleinod_moderated", "Jobs stopped by a filter", ("category",), registry=self.registry
        )
        self._stages = Histogram(
            "kleinod_stage_seconds",
            "Time of a job in each stage",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._webhooks = Counter(
            "kleinod_webhooks", "Webhooks sent", ("outcome",), registry=self.registry
        )
        self._stored = Gauge(
            "kleinod_stored_jobs", "Jobs in the database", ("status",), registry=self.registry
        )

    def watch(self, engines: Mapping[str, Engine]) -> None:
        """Tell of these engines, too, by their models' names."""
        self.registry.register(_Engines(engines))

    def count_job(self, job: Job) -> None:
        """A job ended here."""
        self._jobs.labels(job.model, job.api, job.status).inc()
        for category in job.moderation:
            self._moderated.labels(category).inc()

    def count_webhook(self, outcome: str) -> None:
        """A webhook was `delivered`, `failed` (and is sent again) or `dropped`."""
        self._webhooks.labels(outcome).inc()

    def observe_stages(self, timings: Mapping[str, float]) -> None:
        """Seconds by `STAGE_seconds`."""
        for name, seconds in timings.items():
            self._stages.labels(name.removesuffix("_seconds")).observe(seconds)

    def text(self, stored: Mapping[str, int]) -> bytes:
        """Everything in Prometheus's text format; stored: jobs in the database by status."""
        self._stored.clear()
        for status, count in stored.items():
            self._stored.labels(status).set(count)
        return generate_latest(self.registry)


class _Engines(Collector):
    """Asks the engines when Prometheus asks."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """The engines' statistics and the process's memory."""
        model = ["model"]
        queued = GaugeMetricFamily("kleinod_queue_jobs", "Jobs waiting in the engine", labels=model)
        running = GaugeMetricFamily("kleinod_running_pictures", "Being painted", labels=model)
        batch = GaugeMetricFamily("kleinod_batch_pictures", "In the last pass", labels=model)
        steps = CounterMetricFamily("kleinod_steps", "Steps of pictures", labels=model)
        passes = CounterMetricFamily("kleinod_passes", "Forward passes", labels=model)
        pictures = CounterMetricFamily("kleinod_pictures", "Pictures painted", labels=model)
        stages = CounterMetricFamily(
            "kleinod_engine_seconds", "Spent in each stage", labels=["model", "stage"]
        )
        for name, engine in self._engines.items():
            stats = engine.stats()
            queued.add_metric([name], stats.queued)
            running.add_metric([name], stats.running)
            batch.add_metric([name], stats.last_batch)
            steps.add_metric([name], stats.steps_total)
            passes.add_metric([name], stats.passes_total)
            pictures.add_metric([name], stats.pictures_total)
            for stage, seconds in stats.stage_seconds.items():
                stages.add_metric([name, stage], seconds)
        yield from (queued, running, batch, steps, passes, pictures, stages)
        memory = GaugeMetricFamily("kleinod_peak_memory_bytes", "Most memory the process held")
        memory.add_metric([], peak_bytes() or 0)
        yield memory
