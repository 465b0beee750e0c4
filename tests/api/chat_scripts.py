"""A model that answers chats by a script, over a server with a key: for the tests of APIs that translate onto chat."""

from collections.abc import Sequence

from pydantic import BaseModel

from tests.fakes import EOS

TEXT = "Grüße, 世界! 👋"
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "世界"}}\n</tool_call>'
ARGUMENTS = {"at": "世界"}
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"], "additionalProperties": False}


class Place(BaseModel):
    at: str


# What the last line of the prompt that is one of these asks for → what is said.
SCRIPT = {
    "hi": TEXT,
    "think": f"<think>\nHm, {TEXT}\n</think>\n\n{TEXT}",
    "look": f"<think>\nHm.\n</think>\n\nI look.\n{CALL}",
    "call": CALL,
    "look twice": f"{CALL}\n{CALL}",
    "red": "It is red.",
    "write": '{"at": "here"}',
}


def scripted(token_ids: Sequence[int], num_prompt_tokens: int) -> int:
    """A `NextToken` for FakeRunner. The prompt is as LinesTemplate writes it."""
    lines = bytes(token_ids[:num_prompt_tokens]).decode().splitlines()
    asked = next(line for line in reversed([line.removeprefix("user: ") for line in lines]) if line in SCRIPT)
    said = [*SCRIPT[asked].encode(), EOS]
    return said[min(len(token_ids) - num_prompt_tokens, len(said) - 1)]
