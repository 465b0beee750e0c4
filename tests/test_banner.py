"""What the banner says. That its curl works is shown by test_main.py, on a live server."""

import json
import shlex
from dataclasses import replace

import pytest

from app.banner import Banner, in_binary_units
from model.batch import RunnerInfo

INFO = RunnerInfo(
    backend="torch",
    device="cpu",
    dtype="float32",
    kv_dtype="bfloat16",
    num_threads=2,
    vocab_size=100,
    max_model_len=8192,
    block_size=32,
    num_blocks=1000,
    block_bytes=32 * 23_040,
)
BANNER = Banner(
    version="1.2.3",
    model="SmolLM2",
    architecture="llama",
    num_parameters=134_515_008,
    path="folder/model.gguf",
    info=INFO,
    num_slots=64,
    address=("127.0.0.1", 8000),
    needs_key=False,
    can_chat=True,
)


@pytest.mark.parametrize(
    "fact",
    [
        "slotwise 1.2.3 is ready",
        "SmolLM2: llama, 134.5 million parameters",
        "folder/model.gguf",
        "torch on cpu, 2 threads, weights in float32",
        "8,192 tokens for each request, 64 requests at once",
        "23,040 bytes a token in bfloat16",
        "703.1 MiB: 32,000 tokens in 1,000 blocks",
        "http://127.0.0.1:8000/v1 (no API key is needed)",
        "http://127.0.0.1:8000/docs",
        "http://127.0.0.1:8000/metrics",
    ],
)
def test_the_banner_says(fact):
    assert fact in str(BANNER)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("192.168.1.5", "http://192.168.1.5:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(address, url):
    assert replace(BANNER, address=(address, 8000)).url == url


@pytest.mark.parametrize(
    ("address", "needs_key", "warns"),
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("192.168.1.5", False, True),
        ("0.0.0.0", True, False),
    ],
)
def test_an_open_door_is_warned_of(address, needs_key, warns):
    text = str(replace(BANNER, address=(address, 8000), needs_key=needs_key))

    assert ("WARNING: everyone who reaches this machine can use this server" in text) is warns


def test_the_request_survives_the_shell_whatever_the_model_is_called():
    banner = replace(BANNER, model='it\'s "my" $HOME model 模型')

    words = shlex.split(banner.curl())

    assert json.loads(words[-1])["model"] == banner.model


def test_a_model_without_a_chat_template_is_asked_to_go_on():
    assert "/v1/completions " in replace(BANNER, can_chat=False).curl()


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 * 1024**3 // 2, "1.5 GiB")]
)
def test_sizes_are_in_binary_units(num_bytes, text):
    assert in_binary_units(num_bytes) == text
