"""What a client wrote into a conversation, marked before the template sees it: none of it becomes a special token, such
as the end of a turn, or the beginning of another's."""

import json
import secrets
from dataclasses import dataclass
from typing import Any

from app.api.errors import InvalidRequest
from app.api.served import Tokenizer


def new_mark() -> str:
    """For one request. Digits: what templates do to texts leaves them as they are."""
    return f"{secrets.randbelow(10**16):016d}"


@dataclass(frozen=True, slots=True)
class ClientTexts:
    tokenizer: Tokenizer
    mark: str

    def marked(self, value: Any) -> Any:
        """The same messages, tools or variables, every text in them marked, names of members too. Raises
        InvalidRequest."""
        try:
            return self._marked(value)
        except RecursionError:
            raise InvalidRequest("messages", "the arguments of a tool call are nested too deep") from None

    def _marked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.tokenizer.marked(value, self.mark)
        if isinstance(value, list | tuple):
            return [self._marked(member) for member in value]
        if isinstance(value, dict):
            return {self._marked(name): self._member(name, member) for name, member in value.items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        return self._arguments(value) if name == "arguments" and isinstance(value, str) else self._marked(value)

    def _arguments(self, text: str) -> str:
        """A JSON text, which templates may read: then an escape in it could write what the text itself does not."""
        if "\\" in text:
            try:
                values = json.loads(text)
            except ValueError:
                return self.tokenizer.marked(text, self.mark)
            marked = self._marked(values)
            if marked != values:
                return json.dumps(marked, ensure_ascii=False)
        return self.tokenizer.marked(text, self.mark)
