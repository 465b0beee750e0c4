"""Requests from files: a line of JSON for each, or a ShareGPT collection of conversations. Nothing is downloaded."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.bench.errors import BadWorkload

Prompt: TypeAlias = str | tuple[int, ...] | tuple[Mapping[str, Any], ...]
CHARACTERS_PER_TOKEN = 4  # of English text, for a reply whose tokens nobody counted


class Line(BaseModel):
    """One request of a JSONL file; prompt, text or messages, and perhaps how long the answer shall be."""

    prompt: str | tuple[int, ...] | None = None
    text: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    max_tokens: int | None = Field(None, ge=1)
    output_tokens: int | None = Field(None, ge=1)

    @property
    def asked(self) -> Prompt | None:
        return self.prompt or self.text or self.messages

    @property
    def length(self) -> int | None:
        return self.max_tokens or self.output_tokens


class Turn(BaseModel):
    speaker: str = Field("", alias="from")
    value: str = ""


class Conversation(BaseModel):
    conversations: list[Turn] = []


def read_jsonl(path: Path) -> list[tuple[Prompt, int | None]]:
    """Prompts and, where the file says so, answer lengths in tokens. Raises BadWorkload."""
    found = [_read_line(path, number, line) for number, line in _lines(path)]
    if not found:
        raise BadWorkload(f"{path}: there is no request in it")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if line.strip():
            yield number, line


def _read_line(path: Path, number: int, text: str) -> tuple[Prompt, int | None]:
    try:
        line = Line.model_validate_json(text)
    except ValidationError as error:
        raise BadWorkload(f"{path}:{number}: {error.errors()[0]['msg']}") from error
    if not line.asked:
        raise BadWorkload(f"{path}:{number}: there is no prompt, text or messages")
    return line.asked, line.length


def read_sharegpt(path: Path) -> list[tuple[Prompt, int | None]]:
    """What a person said first in each conversation, and about how long the reply was. Raises BadWorkload."""
    try:
        conversations = TypeAdapter(list[Conversation]).validate_json(_read(path))
    except ValidationError as error:
        raise BadWorkload(f"{path}: not a ShareGPT file: {error.errors()[0]['msg']}") from error
    found = [turns for turns in map(_first_turns, conversations) if turns is not None]
    if not found:
        raise BadWorkload(f"{path}: there is no conversation in it")
    return found


def _first_turns(conversation: Conversation) -> tuple[Prompt, int | None] | None:
    turns: Sequence[Turn] = conversation.conversations
    if len(turns) < 2 or not (turns[0].value and turns[1].value):
        return None
    return turns[0].value, max(len(turns[1].value) // CHARACTERS_PER_TOKEN, 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadWorkload(f"{path} cannot be read: {error}") from error


def as_messages(prompt: Prompt) -> bool:
    """Whether a prompt is a chat's messages."""
    return isinstance(prompt, tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def check_endpoint(prompts: Sequence[tuple[Prompt, int | None]], is_chat: bool) -> None:
    """Raises BadWorkload for messages that are to be completed, and for token ids that are to be chatted with."""
    for prompt, _ in prompts:
        if as_messages(prompt) and not is_chat:
            raise BadWorkload("the file has messages: use --endpoint chat")
        if is_chat and isinstance(prompt, tuple) and not as_messages(prompt):
            raise BadWorkload("the file has token ids, which only --endpoint completions takes")
