"""Results on disk: what is written is read back, and other programs can read it."""

import csv
import json

import pytest

from app.bench.files import NotAResult, RequestLines, read_results, write_csv, write_document, write_json
from app.bench.records import Failure, Record
from tests.bench.hand_written import load

RECORD = Record(number=7, scheduled=1.0, sent=1.25, first=1.5, ended=3.123456789, prompt_tokens=32, output_tokens=3)


def test_one_load_is_written_as_vllm_does_it(tmp_path):
    write_json(tmp_path / "a.json", [load()])

    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert written == load()
    assert read_results(tmp_path / "a.json") == [load()]


def test_several_loads_are_runs(tmp_path):
    write_json(tmp_path / "a.json", [load(), load(max_concurrency=4)])

    written = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [run["max_concurrency"] for run in written["runs"]] == [16, 4]
    assert read_results(tmp_path / "a.json") == written["runs"]


def test_what_a_sweep_has_to_say_stands_beside_its_runs(tmp_path):
    write_document(tmp_path / "a.json", {"runs": [load()], "knee": 0})

    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["knee"] == 0
    assert read_results(tmp_path / "a.json") == [load()]


def test_what_json_cannot_say_is_said_in_words(tmp_path):
    write_json(tmp_path / "a.json", [load(request_rate=float("inf"), duration=float("nan"), seconds=[float("-inf")])])

    (result,) = read_results(tmp_path / "a.json")
    assert (result["request_rate"], result["duration"], result["seconds"]) == ("inf", None, ["-inf"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"runs": []}', '{"runs": [1]}', '{"runs": {"a": 1}}', '"text"', '{"model": "x"}']
)
def test_a_file_that_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")

    with pytest.raises(NotAResult, match=r"a\.json"):
        read_results(tmp_path / "a.json")


def test_bytes_that_are_no_text_are_no_result(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(NotAResult, match="not a JSON file"):
        read_results(tmp_path / "a.json")


def test_each_request_is_a_line(tmp_path):
    with RequestLines(tmp_path / "a.jsonl") as lines:
        lines.write(RECORD)
        lines.write(
            Record(8, 2.0, 2.0, None, 2.5, failure=Failure.REFUSED, message="503: full\nof requests", text="so far"),
            run=1,
        )

    first, second = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (first["run"], first["number"], first["scheduled"], first["ended"]) == (0, 7, 1.0, 3.123457)
    assert (first["output_tokens"], first["failure"], first["cancelled"]) == (3, None, False)
    assert "text" not in first
    assert (second["run"], second["failure"], second["text"]) == (1, "refused", "so far")
    assert second["message"] == "503: full\nof requests"
    assert second["first"] is None


def test_gaps_are_kept_to_the_microsecond(tmp_path):
    with RequestLines(tmp_path / "a.jsonl") as lines:
        lines.write(Record(1, 0.0, 0.0, 0.1, 0.2, gaps=(0.0123456789, 0.5)))

    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["gaps"] == [0.012346, 0.5]


def test_a_table_has_a_row_for_each_load(tmp_path):
    write_csv(tmp_path / "a.csv", [load(), load(max_concurrency=4, extra=1)])

    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        first, second = list(csv.DictReader(file))
    assert (first["max_concurrency"], second["max_concurrency"]) == ("16", "4")
    assert (first["extra"], second["extra"]) == ("", "1")
    assert (first["p99_ttft_ms"], first["client.cpu_share"], first["server.queue_max"]) == ("300.0", "0.08", "3")
    assert first["failures.timeout"] == "2"
    assert not [name for name in first if name.startswith(("definitions", "timeline", "seconds", "ttft_buckets"))]
