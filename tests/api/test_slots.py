"""GET /slots while a request runs, step by step."""

import asyncio
import threading

from tests.api.api_parts import asking, build
from tests.fakes import FakeRunner


async def test_live_slots_and_their_blocks_are_seen_between_two_steps():
    step_begins, step_may_go_on = threading.Semaphore(0), threading.Semaphore(0)

    def wait(batch) -> None:
        step_begins.release()
        assert step_may_go_on.acquire(timeout=20)

    runner = FakeRunner(lambda tokens, num_prompt: 97, before_step=wait, block_size=4)
    body = {"prompt": [1] * 9, "max_tokens": 3}
    seen = []
    async with asking(build(runner, max_num_batched_tokens=8)) as client:
        answer = asyncio.create_task(client.post("/v1/completions", json=body, headers={"x-request-id": "mine"}))
        for _ in range(3):
            await asyncio.to_thread(step_begins.acquire, timeout=20)
            question = asyncio.create_task(client.get("/slots"))
            for _ in range(100):  # it takes no thread to ask, so this is enough for the question to reach the engine
                await asyncio.sleep(0)
            step_may_go_on.release()
            seen.append((await question).json())
        step_may_go_on.release(10)
        assert (await answer).status_code == 200
        after = (await client.get("/slots")).json()

    ages = [one["slots"][0].pop("age_s") for one in seen]
    mine = {"id": seen[0]["slots"][0]["id"], "request_id": "mine"}
    assert [one["slots"] for one in seen] == [
        [mine | {"phase": "prefill", "num_tokens": 8, "num_blocks": 2, "bytes": 64, "adapter": None}],
        [mine | {"phase": "decode", "num_tokens": 9, "num_blocks": 3, "bytes": 96, "adapter": None}],
        [mine | {"phase": "decode", "num_tokens": 10, "num_blocks": 3, "bytes": 96, "adapter": None}],
    ]
    assert [one["blocks"]["used"] for one in seen] == [2, 3, 3]
    assert 0 <= ages[0] <= ages[1] <= ages[2]
    assert after == {"num_slots": 8, "blocks": {"used": 0, "total": 64, "block_size": 4}, "slots": []}
