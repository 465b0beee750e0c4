"""Pages of /metrics as the servers write them. Those of vLLM and llama-server are written by hand, with their names."""

import pytest

from app.api.metrics import Metrics
from app.bench.exposition import Dialect, Levels, dialect_of, read_levels
from app.engine.report import StepReport

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/model"} 3.0
vllm:num_requests_running{engine="1",model_name="org/model"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/model"} 1.0
vllm:num_requests_waiting{engine="1",model_name="org/model"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="org/model",reason="capacity"} 900.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/model"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="org/model"} 0.1
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="org/model"} 1000.0
vllm:prompt_tokens_created{engine="0",model_name="org/model"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="org/model"} 200.0
vllm:num_preemptions_total{engine="0",model_name="org/model"} 4.0
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="org/model"} 7.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="org/model"} 1.5
vllm:request_prefill_time_seconds_sum{engine="0",model_name="org/model"} 2.5
vllm:request_decode_time_seconds_sum{engine="0",model_name="org/model"} 6.25
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="org/model"} 1.0
vllm:iteration_tokens_total_count{engine="0",model_name="org/model"} 50.0
vllm:iteration_tokens_total_sum{engine="0",model_name="org/model"} 1200.0
"""

LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 640
llamacpp:prompt_seconds_total 1.25
llamacpp:prompt_tokens_seconds 512
llamacpp:tokens_predicted_total 300
llamacpp:tokens_predicted_seconds_total 7.5
llamacpp:n_decode_total 90
llamacpp:n_busy_slots_per_decode 3.25
llamacpp:requests_processing 4
llamacpp:requests_deferred 2
"""


def levels(page: str) -> Levels:
    return read_levels(page, dialect(page), 5.0)


def dialect(page: str) -> Dialect:
    found = dialect_of(page)
    assert found is not None
    return found


def test_slotwise_is_read_as_it_writes_itself():
    metrics = Metrics()
    metrics.observe(
        StepReport(
            num_running=3,
            num_waiting=2,
            blocks_used=10,
            num_blocks=40,
            num_preemptions=1,
            step_seconds=0.01,
            num_prompt_tokens=7,
            num_generated_tokens=3,
            queue_seconds=(0.5, 1.0),
            ttft_seconds=(0.75, 1.75),
            inter_token_seconds=(0.25, 0.25),
        )
    )
    page = bytes(metrics.exposition().body).decode()

    assert dialect(page).server == "slotwise"
    assert levels(page) == Levels(
        t=5.0,
        running=3,
        waiting=2,
        kv_used=10,
        kv_total=40,
        generated_total=3,
        prompt_total=7,
        queue_s=1.5,
        prefill_s=1.0,  # of the 2.5 s to the first tokens, 1.5 s were in the queue
        decode_s=0.5,
        steps=1,
        preemptions=1,
    )


def test_vllm_is_read_over_all_its_engines():
    assert dialect(VLLM).server == "vllm"
    assert levels(VLLM) == Levels(
        t=5.0,
        running=5,
        waiting=1,
        kv_used=pytest.approx(60),  # half of 100 blocks and a tenth of 100
        kv_total=200,
        generated_total=200,
        prompt_total=1000,
        queue_s=1.5,
        prefill_s=2.5,
        decode_s=6.25,
        steps=50,
        preemptions=4,
    )


def test_vllm_before_it_knows_its_blocks_tells_a_share():
    told = levels(VLLM.replace('num_gpu_blocks="100"', 'num_gpu_blocks="None"'))

    assert (told.kv_used, told.kv_total) == (pytest.approx(0.3), 1.0)
    assert told.kv_share == pytest.approx(0.3)


def test_llama_server_is_read_without_what_it_does_not_tell():
    assert dialect(LLAMA).server == "llama-server"
    assert levels(LLAMA) == Levels(
        t=5.0,
        running=4,
        waiting=2,
        generated_total=300,
        prompt_total=640,
        prefill_s=1.25,
        decode_s=7.5,
        steps=90,
    )
    assert levels(LLAMA).kv_share is None


def test_another_server_has_no_dialect():
    assert dialect_of("# TYPE http_requests_total counter\nhttp_requests_total 3\n") is None
    assert dialect_of("# a page that only mentions vllm:num_requests_running {\n") is None
    assert dialect_of("vllm:num_requests_running_of_another_kind 3\n") is None
    assert dialect_of("<html>slotwise_requests_running 1</html>") is None


def test_a_page_that_is_cut_off_in_a_line_is_an_error():
    with pytest.raises(ValueError, match="could not convert"):
        levels(LLAMA + "llamacpp:requests_processing four\n")
