"""Results on disk: JSON as `vllm bench serve` writes it, a line of JSON for each request, and a table for spreadsheets.
It writes what it is given and reads it back; it computes nothing.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.bench.records import Record, RunResult


class NotAResult(ValueError):
    """A file that holds no load's figures."""


def write_json(path: Path, results: Sequence[RunResult]) -> None:
    """One load: its figures. Several: {"runs": [...]}, each with the same keys."""
    write_document(path, results[0] if len(results) == 1 else {"runs": list(results)})


def write_document(path: Path, whole: Mapping[str, Any]) -> None:
    """For a command that has more to say than its runs, beside its "runs"."""
    path.write_text(json.dumps(_plain(whole), indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: the one is a word, as in `vllm bench serve`'s files, the other no value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def read_results(path: Path) -> list[RunResult]:
    """The loads of a file that `write_json` or `vllm bench serve` wrote. Raises NotAResult, or OSError."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise NotAResult(f"{path}: not a JSON file ({error})") from error
    runs = whole.get("runs", [whole]) if isinstance(whole, dict) else None
    if not isinstance(runs, list) or not runs or not all(_is_result(run) for run in runs):
        raise NotAResult(f"{path}: not the figures of a load test (no 'request_throughput' in it)")
    return runs


def _is_result(run: object) -> bool:
    return isinstance(run, dict) and "request_throughput" in run


class RequestLines:
    """A file with a line for each request, written as the answers come: memory does not grow with the run."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, record: Record, run: int = 0) -> None:
        """`run` counts the loads of one command."""
        line = {"run": run} | dict(_fields(record))
        self._file.write(json.dumps(_plain(line), allow_nan=False, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _fields(record: Record) -> Iterator[tuple[str, Any]]:
    """Times in seconds since the run's start, to the microsecond, which no clock of a client is better than."""
    for name in ("number", "scheduled", "sent", "first", "ended", "prompt_tokens", "output_tokens"):
        yield name, _rounded(getattr(record, name))
    yield "gaps", [_rounded(gap) for gap in record.gaps]
    yield "queue_s", _rounded(record.queue_s)
    yield "prefill_s", _rounded(record.prefill_s)
    yield "cancelled", record.is_cancelled
    yield "failure", record.failure
    if record.message:
        yield "message", record.message
    if record.text is not None:
        yield "text", record.text


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value


def write_csv(path: Path, results: Sequence[RunResult]) -> None:
    """A row for each load; a column for each number and word of any of them, `client.cpu_share` and the like too."""
    rows = [dict(_cells(_plain(result))) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def _cells(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in result.items():
        if isinstance(value, Mapping) and key != "definitions":
            yield from _cells(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping | list):
            yield prefix + key, value
