"""A server-sent event with a name, as Anthropic's streams and OpenAI's responses consist of. ASCII throughout."""

import json
from collections.abc import Mapping
from typing import Any


def named_event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
