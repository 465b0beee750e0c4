"""Tokens over time, from pieces at given times."""

import pytest

from app.bench import throughput as module
from app.bench.throughput import Throughput


def of(*times: float) -> Throughput:
    throughput = Throughput()
    for now in times:
        throughput.piece(now)
    return throughput


def test_each_second_has_its_tokens_and_silence_has_none() -> None:
    seconds = of(0.1, 0.9, 3.0, 3.5, 3.9).by_second(tokens_per_piece=2.0)
    assert [(second["t"], second["output_tokens"]) for second in seconds] == [(0, 4), (1, 0), (2, 0), (3, 6)]


@pytest.mark.parametrize("times", [(0.1, 1.0, 1.5, 1.9, 2.0), (0.1, 2.2, 2.3, 2.4), (0.1, 0.2, 0.3, 1.5, 2.5)])
def test_the_peak_is_the_best_second_wherever_it_is(times: tuple[float, ...]) -> None:
    assert of(*times).peak(tokens_per_piece=2.0, duration=3.0) == 6.0


def test_a_run_of_less_than_a_second_peaks_at_its_average() -> None:
    assert of(0.1, 0.2).peak(tokens_per_piece=1.0, duration=0.5) == 4.0
    assert of().peak(tokens_per_piece=1.0, duration=0.0) == 0.0


def test_the_steady_window_is_from_the_first_answer_to_the_last_send() -> None:
    throughput = of(0.5, 1.0)
    throughput.answered(1.0)
    for now in (2.0, 3.0, 4.0):
        throughput.piece(now)
    throughput.answered(4.0)
    throughput.sent(5.0)
    throughput.piece(6.0)
    assert throughput.steady(tokens_per_piece=2.0) == 3 * 2.0 / (5.0 - 1.0)


def test_no_answer_before_the_last_send_is_no_window() -> None:
    throughput = of(0.5)
    throughput.sent(0.1)
    assert throughput.steady(1.0) is None
    throughput.answered(0.5)
    assert throughput.steady(1.0) is None


def test_a_long_run_keeps_few_entries_and_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", 8)
    throughput = of(*(second / 2 for second in range(200)))
    series = throughput.by_second(1.0)
    assert len(series) <= 8
    assert sum(entry["output_tokens"] for entry in series) == 200
    assert [entry["t"] for entry in series] == [16.0 * place for place in range(len(series))]
    assert throughput.peak(1.0, 100.0) == 2.0, "a peak is of one second all the same"
