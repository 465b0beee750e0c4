"""What a person reads once the server answers: what runs, how much it holds, where it is, and a first request to paste.
Text only; nothing secret is in it."""

import ipaddress
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from model.batch import RunnerInfo


@dataclass(frozen=True, slots=True)
class Banner:
    """The facts. `address` is what the socket is bound to, its port the one the system chose."""

    version: str
    model: str  # the name that clients use
    architecture: str
    num_parameters: int
    path: str
    info: RunnerInfo
    num_slots: int
    address: tuple[str, int]
    needs_key: bool
    can_chat: bool

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server."""
        host = ipaddress.ip_address(self.address[0])
        if host.is_unspecified:
            host = ipaddress.ip_address("127.0.0.1" if host.version == 4 else "::1")
        return f"http://{host if host.version == 4 else f'[{host}]'}:{self.address[1]}"

    def __str__(self) -> str:
        rows = [f"  {label:<9} {text}" for label, text in self._facts()]
        return "\n".join([f"slotwise {self.version} is ready", "", *rows, "", *self._warnings(), self.curl(), ""])

    def _facts(self) -> Sequence[tuple[str, str]]:
        info = self.info
        limit = info.num_blocks * info.block_bytes
        tokens = info.num_blocks * info.block_size
        return (
            ("model", f"{self.model}: {self.architecture}, {self.num_parameters / 1e6:,.1f} million parameters"),
            ("from", self.path),
            ("backend", f"{info.backend} on {info.device}, {info.num_threads} threads, weights in {info.dtype}"),
            ("context", f"{info.max_model_len:,} tokens for each request, {self.num_slots} requests at once"),
            ("KV cache", f"{info.kv_bytes_per_token:,} bytes a token in {info.kv_dtype}, taken as requests grow"),
            ("KV limit", f"{in_binary_units(limit)}: {tokens:,} tokens in {info.num_blocks:,} blocks"),
            ("API", f"{self.url}/v1 ({'an API key is needed' if self.needs_key else 'no API key is needed'})"),
            ("pages", f"{self.url}/docs  {self.url}/metrics"),
        )

    def _warnings(self) -> Sequence[str]:
        if self.needs_key or ipaddress.ip_address(self.address[0]).is_loopback:
            return ()
        return ("WARNING: everyone who reaches this machine can use this server. --api-key-file asks for a key.", "")

    def curl(self) -> str:
        """A request that works as it is printed, once a key is put in where one is needed. A small model talks sense
        at a low temperature only."""
        route, asked = (
            ("chat/completions", {"messages": [{"role": "user", "content": "Why is the sky blue?"}]})
            if self.can_chat
            else ("completions", {"prompt": "The sky is blue because"})
        )
        body = json.dumps({"model": self.model, **asked, "max_tokens": 64, "temperature": 0.2}, ensure_ascii=False)
        key = "-H 'Authorization: Bearer YOUR-KEY' " if self.needs_key else ""
        return f"curl {self.url}/v1/{route} {key}\\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"


def in_binary_units(num_bytes: int) -> str:
    """As people say it: 1.5 GiB."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:.1f} {unit}"
    return f"{num_bytes} bytes"
