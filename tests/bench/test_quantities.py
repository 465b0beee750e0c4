"""The table of figures: every name that people write is found, and every number is read as it is meant."""

import pytest

from app.bench.quantities import (
    COUNTS,
    INSIDE,
    RATES,
    UnknownQuantity,
    in_words,
    load_of,
    quantity_of,
    statistics_of,
    value_of,
)
from tests.bench.hand_written import load


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("p99_ttft", "p99_ttft_ms"),
        ("p99_ttft_ms", "p99_ttft_ms"),
        ("p99.9_itl", "p99.9_itl_ms"),
        ("p99.90_itl", "p99.9_itl_ms"),
        ("p05_itl", "p5_itl_ms"),
        ("p100_e2el", "p100_e2el_ms"),
        ("max_e2el", "max_e2el_ms"),
        ("output_throughput", "output_throughput"),
        ("client.cpu_share", "client.cpu_share"),
        ("failures.no_usage", "failures.no_usage"),
    ],
)
def test_a_figure_is_found_by_its_name(name, key):
    assert quantity_of(name).key == key


@pytest.mark.parametrize("name", ["p99_tftt", "p999_ttft", "output_troughput", "failures.unheard_of", ""])
def test_a_name_that_no_result_has_is_refused(name):
    with pytest.raises(UnknownQuantity):
        quantity_of(name)


def test_who_mistypes_is_told_what_is_near():
    with pytest.raises(UnknownQuantity, match="is it 'output_throughput'"):
        quantity_of("output_troughput")
    with pytest.raises(UnknownQuantity, match="is it 'p99_ttft'"):
        quantity_of("p99_tftt")


def test_every_quantity_is_one_that_a_result_has_or_may_have():
    result = load(server=load()["server"] | {"tokens_per_step": 14.0, "preemptions": 0})

    assert [q.key for q in (*RATES, *COUNTS, *INSIDE) if value_of(result, q.key) is None] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p99_ttft_ms", 300.0),
        ("client.cpu_share", 0.08),
        ("failures.timeout", 2.0),
        ("failures.no_usage", 1.0),
        ("failures.refused", 0.0),
        ("model_id", None),
        ("request_rate", None),  # "inf"
        ("server.samples", None),
        ("nothing", None),
        ("nothing.at_all", None),
    ],
)
def test_a_number_is_read_where_there_is_one(key, value):
    assert value_of(load(), key) == value


def test_what_is_not_finite_is_no_number():
    assert value_of({"a": float("nan")}, "a") is None
    assert value_of({"a": float("inf")}, "a") is None
    assert value_of({"a": True}, "a") is None


def test_a_server_that_tells_nothing_has_no_numbers():
    assert value_of(load(server=None), "server.kv_max") is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"max_concurrency": 16}, "16 at once"),
        ({"request_rate": 2.5, "max_concurrency": None}, "2.5 req/s"),
        ({"request_rate": 8.0, "max_concurrency": 4}, "8 req/s, 4 at once"),
        ({"max_concurrency": None}, "all at once"),
        ({"max_concurrency": None, "ramp_up_start_rps": 1.0, "ramp_up_end_rps": 9.0}, "1 to 9 req/s"),
    ],
)
def test_a_load_in_words(asked, words):
    assert load_of(load(**asked)) == words


def test_statistics_stand_in_the_order_in_which_they_are_read():
    assert statistics_of(load()) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert statistics_of({"p99.9_itl_ms": 1.0, "p10_itl_ms": 1.0, "p5_itl_ms": 1.0}) == ["p5", "p10", "p99.9"]


def test_a_file_of_vllm_without_p50_has_its_median():
    assert statistics_of({"mean_ttft_ms": 1.0, "median_ttft_ms": 1.0, "p99_ttft_ms": 2.0, "std_ttft_ms": 0.1}) == [
        "mean",
        "median",
        "p99",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (None, "ms", "–"),
        (0, "", "0"),
        (0.0321, "", "0.032"),
        (4.567, "ms", "4.57 ms"),
        (123.45, "ms", "123.5 ms"),
        (12345.6, "", "12,346"),
        (3.0, "", "3"),
        (0.083, "share", "8.3 %"),
    ],
)
def test_numbers_have_as_many_digits_as_count(value, unit, words):
    assert in_words(value, unit) == words
