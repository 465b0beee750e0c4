"""SGLang's calls as a training loop makes them: their shapes, new weights under load, and what keeps the old ones."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from app.api.access import Access
from app.api.errors import WeightsRefused
from model.batch import Runner, SamplingParams
from tests.api.api_parts import asking, build, build_with_engine, served_model
from tests.engine.test_swaps import says_what_it_was
from tests.fakes import EOS, FakeRunner, says

GENERATE, UPDATE = "/generate", "/update_weights_from_disk"
EXTRAS = {"stream": False, "logprob_start_len": -1, "return_hidden_states": False, "rid": None, "image_data": None}


@dataclass
class Weights:
    runner: Runner
    digest: str


class Loader:
    """Knows the paths that it was given runners for."""

    def __init__(self, **runners: Runner) -> None:
        self.runners = runners
        self.may_load = threading.Event()
        self.may_load.set()

    def __call__(self, name: str) -> Weights:
        self.may_load.wait(20)
        if name not in self.runners:
            raise WeightsRefused("tensor lm_head.weight is missing.")
        return Weights(self.runners[name], f"digest of {name}")


class MiniMindRollouts:
    """As MiniMind's rollout engine asks and reads."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def rollout(self, prompts: list[list[int]], num_generations: int, max_new_tokens: int) -> list[Any]:
        payload = {
            "input_ids": [ids for ids in prompts for _ in range(num_generations)],
            "sampling_params": {"temperature": 0.8, "max_new_tokens": max_new_tokens, "stop_token_ids": [EOS]},
            "return_logprob": True,
        }
        answer = await self.client.post(GENERATE, json=payload)
        answer.raise_for_status()
        results = answer.json()
        assert isinstance(results, list)
        found = []
        for result in results:
            meta = result.get("meta_info", {})
            logprobs = [item[0] for item in meta.get("output_token_logprobs", [])]
            found.append((meta.get("output_ids", result.get("output_ids", [])), logprobs))
        return found

    async def update_policy(self, path: str) -> bool:
        return (await self.client.post(UPDATE, json={"model_path": path})).status_code == 200

    async def flush_cache(self) -> bool:
        return (await self.client.post("/flush_cache")).status_code == 200

    async def health(self) -> bool:
        return (await self.client.get("/health")).status_code == 200


@pytest.fixture
def gate() -> Iterator[threading.Semaphore]:
    semaphore = threading.Semaphore(0)
    yield semaphore
    semaphore.release(100_000)


async def test_a_training_loop_finds_what_it_reads() -> None:
    async with asking(build(load_weights=Loader(new=FakeRunner(says("new"))))) as client:
        loop = MiniMindRollouts(client)
        assert await loop.health()
        assert await loop.rollout([[1, 2], [3]], 2, 3) == [([3, 6, 12], [-0.5] * 3)] * 4
        assert await loop.update_policy("new")
        assert await loop.flush_cache()
        assert await loop.rollout([[1]], 1, 10) == [([*b"new", EOS], [-0.5] * 4)]
        assert not await loop.update_policy("none")
        assert await loop.rollout([[1]], 1, 2) == [([*b"ne"], [-0.5] * 2)]


async def test_an_answer_has_sglangs_shape() -> None:
    asked = {"text": "ab", "return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True, **EXTRAS}
    async with asking(build(FakeRunner(says("Hé")), load_weights=Loader())) as client:
        answer = (await client.post(GENERATE, json=asked, headers={"x-request-id": "mine"})).json()
    meta = answer["meta_info"]
    assert meta.pop("e2e_latency") >= 0
    tops = meta.pop("output_top_logprobs")
    assert tops[0] == [[-0.5, 72, "H"], [-1.5, 73, "I"]]
    assert answer == {
        "text": "Hé",
        "output_ids": [72, 0xC3, 0xA9, EOS],
        "meta_info": {
            "id": "rollout-mine-0",
            "finish_reason": {"type": "stop", "matched": EOS},
            "prompt_tokens": 2,
            "completion_tokens": 4,
            "cached_tokens": 0,
            "weight_version": "0",
            "output_token_logprobs": [
                [-0.5, 72, "H"],
                [-0.5, 0xC3, "\ufffd"],
                [-0.5, 0xA9, "\ufffd"],
                [-0.5, EOS, "<eos>"],
            ],
        },
    }


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ({"input_ids": [1, 2]}, None),
        ({"text": "a"}, None),
        ({"input_ids": [[1, 2]]}, 1),
        ({"text": ["a", "b"]}, 2),
        ({"input_ids": [1, 2], "sampling_params": {"n": 3}}, 3),
        ({"input_ids": [[1], [2]], "sampling_params": {"n": 2}}, 4),
    ],
)
async def test_one_prompt_has_an_object_and_a_list_a_list(given: dict[str, Any], number: int | None) -> None:
    async with asking(build(load_weights=Loader())) as client:
        answer = (await client.post(GENERATE, json=given)).json()
    assert (len(answer) if isinstance(answer, list) else None) == number
    first = answer[0] if isinstance(answer, list) else answer
    assert "output_token_logprobs" not in first["meta_info"], "they were not asked for"


async def test_a_rollout_samples_as_sglang_does_whatever_the_model_recommends() -> None:
    runner = FakeRunner()
    served = served_model(defaults=SamplingParams(temperature=0.3, top_p=0.5, top_k=7, repetition_penalty=1.2))
    async with asking(build(runner, served=served, load_weights=Loader())) as client:
        answer = (await client.post(GENERATE, json={"input_ids": [1], "sampling_params": {"max_new_tokens": 5}})).json()
    sampling = runner.batches[0].opened[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 1.0, 0, 1.0)
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 5}


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (GENERATE, {}, "input_ids"),
        (GENERATE, {"text": "a", "input_ids": [1]}, "input_ids"),
        (GENERATE, {"input_ids": []}, "input_ids"),
        (GENERATE, {"input_ids": [[]]}, "input_ids"),
        (GENERATE, {"input_ids": [999]}, "prompt"),
        (GENERATE, {"text": "a", "stream": True}, "stream"),
        (GENERATE, {"text": "a", "lora_path": "x"}, "lora_path"),
        (GENERATE, {"text": "a", "top_logprobs_num": 2}, "top_logprobs_num"),
        (GENERATE, {"text": "a", "sampling_params": {"max_tokens": 3}}, "sampling_params.max_tokens"),
        (GENERATE, {"text": "a", "sampling_params": [{}]}, "sampling_params"),
        (GENERATE, {"text": "a", "sampling_params": {"max_new_tokens": "3"}}, "sampling_params.max_new_tokens"),
        (UPDATE, {}, "model_path"),
        (UPDATE, {"model_path": "new", "load_format": "dummy"}, "load_format"),
        (UPDATE, {"model_path": "none"}, "model_path"),
    ],
)
async def test_what_is_not_known_is_refused_by_name(route: str, body: dict[str, Any], param: str) -> None:
    async with asking(build(load_weights=Loader(new=FakeRunner()))) as client:
        answer = await client.post(route, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json().get("success") is (False if route == UPDATE else None)


async def test_an_update_is_told_as_sglang_tells_it() -> None:
    neutral = {"load_format": None, "abort_all_requests": False, "flush_cache": True, "torch_empty_cache": False}
    async with asking(build(load_weights=Loader(new=FakeRunner(says("new"))))) as client:
        before = (await client.get("/version")).json()["system_fingerprint"]
        done = await client.post(UPDATE, json={"model_path": "new", **neutral})
        after = (await client.get("/version")).json()["system_fingerprint"]
        answer = (await client.post("/v1/completions", json={"prompt": "a"})).json()
        refused = await client.post(UPDATE, json={"model_path": "bad"})
        last = (await client.get("/version")).json()["system_fingerprint"]
    assert done.json() == {"success": True, "message": "The new weights are served.", "num_paused_requests": 0}
    assert before != after == last == answer["system_fingerprint"]
    assert answer["choices"][0]["text"] == "new"
    assert refused.json()["message"] == "tensor lm_head.weight is missing."


async def test_nothing_of_it_is_there_unless_weights_may_come() -> None:
    async with asking(build()) as client:
        for route in (GENERATE, UPDATE, "/flush_cache"):
            assert (await client.post(route, json={"text": "a", "model_path": "new"})).status_code == 404


async def test_a_key_is_needed() -> None:
    async with asking(build(load_weights=Loader(), api_keys=["secret"])) as client:
        for route in (GENERATE, UPDATE, "/flush_cache"):
            assert (await client.post(route, json={})).status_code == 401


def slow(gate: threading.Semaphore) -> FakeRunner:
    return FakeRunner(says_what_it_was("old "), before_step=lambda _: gate.acquire(timeout=5))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def asked(max_new_tokens: int) -> dict[str, Any]:
    return {"input_ids": [1], "sampling_params": {"max_new_tokens": max_new_tokens}}


async def test_under_load_each_answer_is_of_one_model_alone(gate: threading.Semaphore) -> None:
    old = slow(gate)
    app, engine = build_with_engine(old, max_num_seqs=2, load_weights=Loader(new=FakeRunner(says_what_it_was("new "))))
    async with asking(app) as client, asyncio.TaskGroup() as group:
        begun = [group.create_task(client.post(GENERATE, json=asked(12))) for _ in range(2)]
        await until(lambda: engine.admission.num_inside == 2)
        gate.release(3)
        await until(lambda: len(old.slots) == 2)
        queued = [group.create_task(client.post(GENERATE, json=asked(8))) for _ in range(3)]
        await until(lambda: engine.admission.num_inside == 5)
        update = group.create_task(client.post(UPDATE, json={"model_path": "new"}))
        await asyncio.sleep(0.05)  # the update is asked for, and waits for the step that waits for the gate
        gate.release(1000)
    assert update.result().status_code == 200
    for task in begun:
        assert (task.result().json()["text"], task.result().json()["meta_info"]["weight_version"]) == ("old " * 3, "0")
    answers = [task.result().json() for task in queued]
    for answer in answers:
        version = answer["meta_info"]["weight_version"]
        assert answer["text"] == {"0": "old ", "1": "new "}[version] * 2
    assert answers[-1]["meta_info"]["weight_version"] == "1"


async def test_all_requests_are_ended_where_that_is_asked(gate: threading.Semaphore) -> None:
    old = slow(gate)
    app, _ = build_with_engine(old, load_weights=Loader(new=FakeRunner(says("new"))))
    async with asking(app) as client, asyncio.TaskGroup() as group:
        open_one = group.create_task(client.post(GENERATE, json=asked(100)))
        await until(lambda: len(old.batches) == 1)
        update = group.create_task(client.post(UPDATE, json={"model_path": "new", "abort_all_requests": True}))
        await asyncio.sleep(0.05)
        gate.release(3)
        assert (await update).status_code == 200
        assert (await client.post(GENERATE, json=asked(9))).json()["text"] == "new"
    assert open_one.result().status_code == 500
    assert "New weights are served" in open_one.result().json()["error"]["message"]


async def test_a_bad_path_ends_nobody_even_where_all_were_to_be_ended(gate: threading.Semaphore) -> None:
    old = slow(gate)
    async with asking(build(old, load_weights=Loader())) as client, asyncio.TaskGroup() as group:
        open_one = group.create_task(client.post(GENERATE, json=asked(4)))
        await until(lambda: len(old.batches) == 1)
        refused = await client.post(UPDATE, json={"model_path": "bad", "abort_all_requests": True})
        gate.release(10)
    assert refused.status_code == 400
    assert open_one.result().json()["text"] == "old "


async def test_a_second_update_meanwhile_is_refused() -> None:
    load = Loader(a=FakeRunner(says("a")), b=FakeRunner(says("b")))
    load.may_load.clear()
    async with asking(build(load_weights=load)) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.post(UPDATE, json={"model_path": "a"}))
        await asyncio.sleep(0.05)
        second = await client.post(UPDATE, json={"model_path": "b"})
        assert (await client.post(GENERATE, json=asked(2))).json()["output_ids"] == [1, 2], "it serves meanwhile"
        load.may_load.set()
        assert (await first).status_code == 200
        assert (await client.post(GENERATE, json=asked(9))).json()["text"] == "a"
        assert (await client.post(UPDATE, json={"model_path": "b"})).status_code == 200
    assert (second.status_code, second.json()["error"]["code"]) == (409, "update_pending")
    assert second.json()["success"] is False


async def test_a_model_of_another_shape_is_refused() -> None:
    other = FakeRunner(says("new"))
    other.info = replace(other.info, vocab_size=9)
    async with asking(build(load_weights=Loader(other=other))) as client:
        refused = await client.post(UPDATE, json={"model_path": "other"})
        assert (await client.post(GENERATE, json=asked(2))).json()["output_ids"] == [1, 2]
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "weights_refused")


async def test_rollouts_count_towards_the_limits_of_their_owner() -> None:
    access = Access((("me", "secret"),), max_requests_per_minute=1)
    async with asking(build(load_weights=Loader(), access=access)) as client:
        client.headers["x-api-key"] = "secret"
        statuses = [(await client.post(GENERATE, json=asked(2))).status_code for _ in range(2)]
    assert statuses == [200, 429]
