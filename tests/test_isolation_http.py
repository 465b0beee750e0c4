"""Isolation as a client sees it: the default model over HTTP, poisoned, with neighbours that leave half-way."""

import socket
from typing import Any
from urllib.parse import urlsplit

from tests.live_model import LiveModel, serve_model

PROMPTS = (
    "The capital of France is",
    "def quicksort(items):",
    "Once upon a time there was a",
    "x",
    "今天天气",
    "The quick brown fox jumps over the lazy dog. " * 8,
    "Dear Sir or Madam,",
    "1, 2, 3, 4,",
)


def bodies() -> list[dict[str, Any]]:
    """Every other one greedy, the others seeded."""
    return [
        {"prompt": prompt, "max_tokens": 24, "temperature": number % 2, "seed": number, "return_token_ids": True}
        for number, prompt in enumerate(PROMPTS)
    ]


def leave_half_way(server: LiveModel) -> None:
    """Asks for a long stream, reads its beginning, and is gone."""
    body = b'{"prompt": "A neighbour who will leave", "max_tokens": 500, "stream": true, "ignore_eos": true}'
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=120) as client:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        client.recv(100)


def token_ids(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["choices"][0]["token_ids"] for answer in answers]


def test_eight_clients_at_once_get_what_each_gets_alone() -> None:
    with serve_model("--debug-poison", "--kv-cache-memory", "200m", "--max-num-seqs", "10") as server:
        alone = token_ids([server.post("/v1/completions", **body) for body in bodies()])
        leave_half_way(server)
        together = token_ids(server.post_together("/v1/completions", bodies()))
        assert together == alone
        assert len(set(map(tuple, alone))) == len(PROMPTS)
        assert server.slots()["slots"] == []
