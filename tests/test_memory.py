"""Resident memory follows the live tokens, and goes back to the system when the load has gone."""

import threading

import psutil

from tests.live_model import LiveModel, serve_model

REQUEST = {"prompt": list(range(1000, 1600)), "max_tokens": 8, "ignore_eos": True}
NUM_REQUESTS = 4


def resident(server: LiveModel) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


def test_memory_grows_with_the_load_and_goes_back_afterwards() -> None:
    with serve_model("--max-num-seqs", "16") as server:
        server.post("/v1/completions", **REQUEST)  # what the first step allocates for good is there from now on
        idle = resident(server)
        most_blocks, most_bytes = watch_load(server)
        assert most_blocks > 60
        assert most_bytes - idle > most_blocks * 500_000, "the blocks of 0.7 MB (torch: 1.5 MB) are really resident"
        assert server.slots()["blocks"]["used"] == 0
        assert resident(server) < idle * 1.1


def watch_load(server: LiveModel) -> tuple[int, int]:
    """The most blocks and the most resident bytes seen while NUM_REQUESTS run together."""
    load = threading.Thread(target=server.post_together, args=("/v1/completions", [REQUEST] * NUM_REQUESTS))
    load.start()
    most_blocks = most_bytes = 0
    while load.is_alive():
        blocks = server.slots()["blocks"]["used"]
        most_blocks, most_bytes = max(most_blocks, blocks), max(most_bytes, resident(server))
    load.join()
    return most_blocks, most_bytes
