"""The model as the API sees it: names, limits, defaults, and the two things it asks of a tokenizer and a chat template.

Protocols instead of classes, so that the API is tested without a model. Says what is served; runs nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.api.errors import UnknownModel
from app.engine.grammars.constraints import GrammarCompiler
from model.batch import SamplingParams


class Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes of each token id."""

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Never printed."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Text by role: bos_token, eos_token, …"""

    def name(self, token_id: int) -> str:
        """As the vocabulary spells it; empty for an id without a token."""
        ...

    def marked(self, text: str, mark: str) -> str:
        """`text` for a longer one in which nothing of it becomes a special token."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True, *, mark: str = "") -> list[int]:
        """A text put together of marked ones and others has its `mark`. Raises ValueError for a text that it does not
        take."""
        ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str: ...


class ChatTemplate(Protocol):
    @property
    def source(self) -> str:
        """In jinja2's language."""
        ...

    @property
    def variables(self) -> frozenset[str]:
        """Their names, as far as the template looks at them."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """`continue_final_message`: the text ends where the content of the last message does. Raises ValueError with
        the template's own words where it refuses the messages."""
        ...


@dataclass(slots=True)
class ServedWeights:
    """Those that have taken the place of the first, once there are any."""

    digest: str | None = None


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """A LoRA adapter that a request may name in the model's place."""

    name: str
    root: str  # where it was loaded from


@dataclass(frozen=True, slots=True)
class ServedModel:
    names: tuple[str, ...]  # the first is what answers call it; a request may use any
    root: str  # where it was loaded from
    created: int  # Unix time, seconds
    max_model_len: int
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None  # None: no chat with this model
    eos_token_ids: frozenset[int]
    grammars: GrammarCompiler
    fingerprint: str = ""  # at the start: changes with everything but the request that an answer depends on
    weights: ServedWeights = field(default_factory=ServedWeights)
    is_batch_invariant: bool | None = None  # as the self-test found at the start; None: it did not come to an end
    invariance_remark: str | None = None  # what differed, or was not tested
    defaults: SamplingParams = field(default_factory=SamplingParams)
    adapters: tuple[ServedAdapter, ...] = ()  # number 1 of the engine's is the first

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def system_fingerprint(self) -> str:
        """As `fingerprint`, and of the weights that are served now."""
        if self.weights.digest is None:
            return self.fingerprint
        return "fp_" + hashlib.sha256(f"{self.fingerprint}\n{self.weights.digest}".encode()).hexdigest()[:12]

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.adapters)

    def require(self, name: str | None) -> None:
        """Raises UnknownModel for a name that neither this nor an adapter of it has; no name means this one."""
        if name not in (None, *self.names, *self.adapter_names):
            known = ", ".join((*self.names, *self.adapter_names))
            raise UnknownModel(f"There is no such model here; this server has {known}.")

    def adapter_of(self, name: str | None) -> int:
        """Which adapter a name means that is not refused, from 1 on; 0: none."""
        return self.adapter_names.index(name) + 1 if name in self.adapter_names else 0

    def adapter_name(self, number: int) -> str | None:
        return self.adapter_names[number - 1] if number else None

    def called(self, name: str | None) -> str:
        """What an answer calls what was asked for by that name."""
        return self.adapter_name(self.adapter_of(name)) or self.name
