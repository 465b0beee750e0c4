"""The server's own tokenizer, for prompts of an exact length: no model's tokenizer is downloaded for a load test."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.bench.client import Client

KEYS = ("prompt", "content")  # what vLLM and what llama-server call the text


@dataclass(frozen=True, slots=True)
class ServerTokenizer:
    client: Client
    key: str

    async def encode(self, text: str) -> tuple[int, ...]:
        """Without special tokens. Raises Lost where the server does not answer."""
        return await _encode(self.client, self.key, text)


async def find_tokenizer(client: Client) -> ServerTokenizer | None:
    """None where the server has no /tokenize. Raises Lost where there is no server."""
    for key in KEYS:
        if await _encode(client, key, "a"):
            return ServerTokenizer(client, key)
    return None


async def _encode(client: Client, key: str, text: str) -> tuple[int, ...]:
    """Empty where the answer is none of a tokenizer."""
    body = {"model": client.settings.model, key: text, "add_special_tokens": False}
    page = (await client.fetch("/tokenize", body)).json()
    tokens = page.get("tokens") if isinstance(page, dict) else None
    if not (isinstance(tokens, Sequence) and all(isinstance(token, int) for token in tokens)):
        return ()
    return tuple(tokens)
