"""GET /metrics: what the engine reports, counted for Prometheus, in a registry of its own.

`observe` is called on the engine thread after every step; everything else on the event loop or a thread of FastAPI's.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from app.engine.report import StepReport
from app.engine.request import FinishReason

# Finer at the low end than most servers': a small model's token takes milliseconds, a step on a GPU less than one.
STEP_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10, 40)
WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._num_preemptions = 0
        self._requests = Counter(
            "slotwise_requests", "Requests that ended, by their finish reason.", ["outcome"], registry=self.registry
        )
        for reason in FinishReason:
            self._requests.labels(reason.value)  # present from the start, at zero
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were read to their end.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._preemptions = self._counter("preemptions", "Running requests set back to waiting for want of blocks.")
        self._not_isolated = self._counter("isolation_failures", "Requests that an isolation check has ended.")
        self._running = self._gauge("requests_running", "Requests that have a slot.")
        self._waiting = self._gauge("requests_waiting", "Requests that wait for a slot.")
        self._blocks_used = self._gauge("kv_blocks_used", "KV cache blocks that slots own.")
        self._blocks_total = self._gauge("kv_blocks_total", "KV cache blocks there can be.")
        self._ttft = self._histogram("time_to_first_token", "From arrival to the first token.", WAIT_BUCKETS)
        self._itl = self._histogram("inter_token_latency", "Between two tokens of a request.", TOKEN_BUCKETS)
        self._step = self._histogram("step", "One step of the engine.", STEP_BUCKETS)
        self._queue = self._histogram("queue", "From arrival to the first slot.", WAIT_BUCKETS)

    def observe(self, report: StepReport) -> None:
        self._running.set(report.num_running)
        self._waiting.set(report.num_waiting)
        self._blocks_used.set(report.blocks_used)
        self._blocks_total.set(report.num_blocks)
        self._prompt_tokens.inc(report.num_prompt_tokens)
        self._generation_tokens.inc(report.num_generated_tokens)
        self._preemptions.inc(report.num_preemptions - self._num_preemptions)
        self._num_preemptions = report.num_preemptions
        self._not_isolated.inc(report.num_not_isolated)
        for reason in report.finished:
            self._requests.labels(reason.value).inc()
        self._observe_times(report)

    def _observe_times(self, report: StepReport) -> None:
        if report.step_seconds is not None:
            self._step.observe(report.step_seconds)
        for histogram, times in (
            (self._queue, report.queue_seconds),
            (self._ttft, report.ttft_seconds),
            (self._itl, report.inter_token_seconds),
        ):
            for seconds in times:
                histogram.observe(seconds)

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operation"])
        router.add_api_route("/metrics", self.exposition, methods=["GET"], response_class=Response)
        return router

    def exposition(self) -> Response:
        """Not a coroutine: FastAPI calls it on a thread, and the event loop goes on meanwhile."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"slotwise_{name}", meaning, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"slotwise_{name}", meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"slotwise_{name}_seconds", meaning, buckets=buckets, registry=self.registry)
