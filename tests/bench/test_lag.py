"""How much the client was in the way, and that it says so."""

import asyncio
import time

import pytest

from app.bench import lag
from app.bench.lag import ClientLoad


async def test_a_client_that_blocks_its_loop_is_found_out() -> None:
    async with ClientLoad().measured() as load:
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
        await asyncio.sleep(0.05)
    found = load.as_json("server.example")
    assert found["loop_lag_p99_ms"] > 100
    assert any("late (p99) at what came" in warning for warning in found["warnings"])


async def test_a_client_that_waits_uses_little_and_warns_of_nothing() -> None:
    async with ClientLoad().measured() as load:
        await asyncio.sleep(0.2)
    found = load.as_json("server.example")
    assert found["cpu_share"] < 0.5
    assert found["late_sends_p99_ms"] is None
    assert not any("used" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    ("host", "cores", "is_warned"),
    [("127.0.0.1", 2, True), ("localhost", 1, True), ("127.0.0.1", 8, False), ("gpu.example", 2, False)],
)
def test_few_cores_that_are_shared_with_the_server_are_warned_about(
    host: str, cores: int, is_warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag.os, "cpu_count", lambda: cores)
    assert any("share" in warning for warning in ClientLoad().as_json(host)["warnings"]) == is_warned


def test_late_sends_are_warned_about() -> None:
    load = ClientLoad()
    load.late_sends.extend([0.05] * 10)
    found = load.as_json("server.example", ["told before"])
    assert found["late_sends_p99_ms"] == pytest.approx(50, rel=0.01)
    assert found["warnings"][0] == "told before"
    assert "sent up to 50 ms late" in found["warnings"][1]
