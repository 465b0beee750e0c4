"""GET /version."""

import platform
from dataclasses import replace

import pytest

from app.version import installed_version
from tests.api.api_parts import asking, build, served_model
from tests.fakes import FakeRunner


@pytest.mark.parametrize(("known", "told"), [("", None), ("avx512", "avx512")])
async def test_a_server_says_what_it_is_and_on_what_it_runs(known, told):
    runner = FakeRunner()
    found = {"fingerprint": "fp_abc", "is_batch_invariant": False, "invariance_remark": "token 3 differs"}
    runner.info = replace(runner.info, instruction_set=known)
    async with asking(build(runner, served=served_model(**found))) as client:
        answer = (await client.get("/version")).json()

    assert answer == {
        "version": installed_version(),
        "model": "fake",
        "system_fingerprint": "fp_abc",
        "backend": "fake",
        "device": "cpu",
        "instruction_set": told,
        "num_threads": 1,
        "weights": "int",
        "kv_cache": "int",
        "batch_invariant": False,
        "batch_invariance_remark": "token 3 differs",
        "max_model_len": 128,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
