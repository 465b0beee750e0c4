"""A server is watched while it works: a live slotwise with a fake model, and pages of /metrics one after another."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from app.bench.client import Client
from app.bench.records import Ask, RunSettings
from app.bench.run import run_load
from app.bench.scrape import DEFINITIONS, MAX_SAMPLES, Watch
from tests.api.api_parts import build
from tests.fakes import FakeRunner
from tests.live_server import LiveServer, serve


def page(running: float, **more: float) -> str:
    levels = {"requests_running": running, **more}
    return "".join(f"slotwise_{name} {value}\n" for name, value in levels.items())


@dataclass
class Pages:
    """Answers /metrics with one page after another, the last one again and again; None: status 501."""

    pages: list[str | None]
    num_asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _live(receive, send)
        assert scope["path"] == "/metrics"
        text = self.pages[min(self.num_asked, len(self.pages) - 1)]
        self.num_asked += 1
        status = 501 if text is None else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": (text or "").encode()})


async def _live(receive: Receive, send: Send) -> None:
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})


@contextmanager
def pages(*texts: str | None) -> Iterator[tuple[Pages, LiveServer]]:
    app = Pages(list(texts))
    with serve(app) as server:
        yield app, server


async def watched(
    server: LiveServer, until: Callable[[], bool] = lambda: True, interval: float = 0.005
) -> dict[str, Any]:
    async with Client(RunSettings(server.url, "fake")) as client:
        async with Watch(client, interval) as watch:
            while not until():
                await asyncio.sleep(0.002)
        return watch.as_json(0.0)


async def test_counts_are_of_the_run_alone_and_peaks_of_all_samples():
    first = page(0, generation_tokens_total=1000, step_seconds_count=500, queue_seconds_sum=9, preemptions_total=7)
    busy = page(4, requests_waiting=3, kv_blocks_used=30, kv_blocks_total=40)
    calm = page(2, requests_waiting=1, kv_blocks_used=10, kv_blocks_total=40)
    last = page(0, generation_tokens_total=1090, step_seconds_count=530, queue_seconds_sum=9.5, preemptions_total=9)
    with pages(first, busy, calm, last) as (app, server):
        told = await watched(server, lambda: app.num_asked >= 4)

    assert told["kind"] == "slotwise"
    assert told["batch_avg"] == 3  # the idle samples do not count
    assert (told["queue_max"], told["kv_max"]) == (3, 0.75)
    assert (told["queue_s"], told["preemptions"], told["tokens_per_step"]) == (0.5, 2, 3)
    assert told["prefill_s"] is None
    assert [sample["running"] for sample in told["samples"]][:3] == [0, 4, 2]
    assert told["samples"][-1]["generated_total"] == 1090


async def test_sample_times_count_from_the_run_s_start():
    with pages(page(1)) as (_, server):
        before = time.perf_counter()
        async with Client(RunSettings(server.url, "fake")) as client, Watch(client) as watch:
            pass
        samples = watch.as_json(before)["samples"]
        took = time.perf_counter() - before

    assert len(samples) == 2
    assert 0 < samples[0]["t"] < samples[1]["t"] < took


async def test_many_samples_are_thinned_out_over_all_of_the_run():
    with pages(page(1)) as (app, server):
        told = await watched(server, lambda: app.num_asked > MAX_SAMPLES + 50, interval=0.0)

    times = [sample["t"] for sample in told["samples"]]
    assert MAX_SAMPLES / 2 <= len(times) <= MAX_SAMPLES + 1
    assert times == sorted(times)
    assert len(set(times)) == len(times)


async def test_a_server_is_asked_less_often_the_longer_a_run_is():
    with pages(page(1)) as (app, server):
        async with Client(RunSettings(server.url, "fake")) as client, Watch(client, interval=1e-6) as watch:
            while app.num_asked < 2 * MAX_SAMPLES:
                await asyncio.sleep(0.002)
            assert watch._interval >= 4e-6


async def test_a_peak_between_kept_samples_is_not_lost():
    calm = [page(1, requests_waiting=1)] * (MAX_SAMPLES + 50)
    calm[333] = page(1, requests_waiting=77)  # odd: not among those that are kept
    with pages(*calm) as (app, server):
        told = await watched(server, lambda: app.num_asked > MAX_SAMPLES + 10, interval=0.0)

    assert max(sample["waiting"] for sample in told["samples"]) == 1
    assert told["queue_max"] == 77


async def test_a_server_without_metrics_has_no_server_side_and_is_asked_once():
    for nothing in (None, "http_requests_total 3\n", ""):
        with pages(nothing) as (app, server):
            assert await watched(server) == {}
        assert app.num_asked == 1


async def test_no_server_is_no_error():
    with serve(build()) as server:
        pass
    assert await watched(server) == {}


async def test_a_server_that_goes_away_leaves_what_it_had_told():
    with pages(page(2, generation_tokens_total=10), page(2, generation_tokens_total=40), None) as (app, server):
        told = await watched(server, lambda: app.num_asked >= 5)

    assert [sample["generated_total"] for sample in told["samples"]] == [10, 40]


async def test_a_page_that_cannot_be_read_is_left_out():
    with pages(page(2), "slotwise_requests_running two\n", page(3)) as (app, server):
        told = await watched(server, lambda: app.num_asked >= 4)

    assert [sample["running"] for sample in told["samples"]][:2] == [2, 3]


async def test_a_server_that_was_started_anew_tells_no_counts():
    before = page(1, generation_tokens_total=1000, queue_seconds_sum=9)
    with pages(before, page(1, generation_tokens_total=5, queue_seconds_sum=10)) as (_, server):
        told = await watched(server)

    assert (told["queue_s"], told["preemptions"], told["tokens_per_step"]) == (None, None, None)


async def test_a_load_on_a_live_slotwise_has_its_server_side():
    runner = FakeRunner(before_step=lambda batch: time.sleep(0.004))
    with serve(build(runner, max_num_seqs=2)) as server:
        settings = RunSettings(server.url, "fake", concurrency=4, num_prompts=8, warmup=2)
        asks = [Ask(number, (7, number), 2, 40) for number in range(10)]
        result = await run_load(settings, asks)

    told = result["server"]
    assert told["kind"] == "slotwise"
    assert told["samples"][-1]["generated_total"] - told["samples"][0]["generated_total"] == 8 * 40
    assert told["samples"][-1]["prompt_total"] - told["samples"][0]["prompt_total"] == 8 * 2
    assert 1 <= told["tokens_per_step"] <= 2  # two slots
    assert told["queue_s"] > told["prefill_s"]  # four clients for two slots
    assert 0 < told["decode_s"] < 8 * result["duration"]
    assert told["samples"][0]["t"] <= 0 < told["samples"][-1]["t"]


def test_each_figure_of_the_server_is_defined():
    async def figures() -> dict[str, Any]:
        with pages(page(1)) as (_, server):
            return await watched(server)

    assert {f"server.{name}" for name in asyncio.run(figures())} - set(DEFINITIONS) == {
        "server.kind",
        "server.samples",
    }
