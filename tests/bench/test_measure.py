"""One load with what goes along with it."""

import asyncio
import io
import json
from pathlib import Path

from rich.console import Console

from app.bench.files import RequestLines
from app.bench.measure import Measurement
from app.bench.prompts import AskSource, FileWorkload
from app.bench.records import Progress, Record, RunSettings
from tests.bench.scripted_server import Stream, scripted

ROWS = [(f"prompt {number}", 2) for number in range(40)]


def settings(url: str) -> RunSettings:
    return RunSettings(url, "m", concurrency=4, num_prompts=24)


async def test_records_and_progress_go_to_all_who_want_them(tmp_path: Path) -> None:
    records: list[Record] = []
    told: list[Progress] = []
    console = Console(file=io.StringIO())
    async with scripted(Stream([0.0, 0.0])) as server:
        with RequestLines(tmp_path / "requests.jsonl") as lines:
            measure = Measurement(AskSource(FileWorkload(ROWS, None), 0, False), lines, console=console)
            result = await measure(
                settings(server.url), 3, on_record=records.append, on_progress=told.append, stop=asyncio.Event()
            )
    assert result["completed"] == len(records) == 24
    assert told[-1].completed == 24
    written = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [line["number"] for line in written] == [record.number for record in records]
    assert {line["run"] for line in written} == {3}
    assert "4 at once" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "verify" not in result


async def test_answers_that_are_all_the_same_prove_nothing() -> None:
    console = Console(file=io.StringIO())
    async with scripted(Stream([0.0, 0.0])) as server:
        measure = Measurement(AskSource(FileWorkload(ROWS, None), 0, False), is_verified=True, console=console)
        result = await measure(settings(server.url), 0, stop=asyncio.Event())
    assert len(server.exchanges) == 48, "each was asked again"
    assert result["verify"]["holds"] is False
    assert "NOT VERIFIED" in console.file.getvalue()  # type: ignore[attr-defined]
