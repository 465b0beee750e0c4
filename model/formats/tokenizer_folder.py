"""The tokenizer files of a Hugging Face folder, read as transformers' AutoTokenizer reads them: tokenizer.json is the
tokenizer, tokenizer_config.json says what its special tokens are for and may add some. What is done with a tokenizer is
not known here, and nothing is guessed from names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers

from model.errors import ModelError
from model.formats.json_object import JsonObject
from model.formats.ordinary_file import read_whole

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MAX_DIGITS = 10  # of a token id, which has 32 bits
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class FolderConfig:
    """tokenizer_config.json, with special_tokens_map.json where older folders have it. Both may be missing."""

    path: Path  # the folder
    settings: JsonObject

    @classmethod
    def read(cls, path: Path) -> "FolderConfig":
        """Raises ModelError for a file that is no JSON object."""
        config_path = path / "tokenizer_config.json"
        values = _read_if_there(config_path)
        if "added_tokens_decoder" not in values:
            values |= _read_if_there(path / "special_tokens_map.json")
        return cls(path, JsonObject(config_path, values))

    @property
    def special_tokens(self) -> dict[str, str]:
        """Text by role: bos_token, eos_token, … and roles of the model's own, such as image_token."""
        return {role: token.content for role, token in self.tokens_by_role().items()}

    def tokens_by_role(self) -> dict[str, AddedToken]:
        settings = self.settings.values
        own = {role: value for role, value in settings.items() if role.endswith("_token") and role not in ROLES}
        for name in ("extra_special_tokens", "model_specific_special_tokens"):
            own |= settings[name] if isinstance(settings.get(name), dict) else {}
        values = {role: settings[role] for role in ROLES if self.settings.has(role)}
        values |= {
            role: value for role, value in own.items() if isinstance(value, str | dict)
        }  # not add_bos_token: true
        return {role: self._added_token(value, special=True) for role, value in values.items()}

    def tokens_without_role(self) -> list[AddedToken]:
        """Those listed as special. The second name is the older one, read where the first says nothing."""
        has_first = self.settings.values.get("extra_special_tokens")
        name = "extra_special_tokens" if has_first else "additional_special_tokens"
        tokens = self.settings.values.get(name) or []
        if not isinstance(tokens, list | dict):
            raise self.settings.wrong(name, "a list of tokens, or an object with tokens")
        return [self._added_token(value) for value in tokens] if isinstance(tokens, list) else []

    @property
    def chat_templates(self) -> dict[str, str]:
        """By name; a single template is named default."""
        value = self.settings.values.get("chat_template")
        if value is None:
            return {}
        sources = {}
        for entry in value if isinstance(value, list) else [{"name": "default", "template": value}]:
            match entry:
                case {"name": str(name), "template": str(source)}:
                    sources[name] = source
                case _:
                    raise self.settings.wrong("chat_template", "a text, or a list of objects with name and template")
        return sources

    def numbered_tokens(self) -> list[AddedToken] | None:
        """Added tokens with what is said of each: whether it is special, takes the spaces around it, … None if that is
        left to tokenizer.json."""
        if not self.settings.has("added_tokens_decoder"):
            return None
        numbered = self.settings.child("added_tokens_decoder").values
        if not all(token_id.isdecimal() and len(token_id) <= _MAX_DIGITS for token_id in numbered):
            raise self.settings.wrong("added_tokens_decoder", "an object whose keys are token ids")
        return [self._added_token(numbered[token_id]) for token_id in sorted(numbered, key=int)]

    def _added_token(self, value: Any, **flags: bool) -> AddedToken:
        """A token is a text, which makes it special, or an object with its text under `content`."""
        text, given = (value.get("content"), value) if isinstance(value, dict) else (value, {"special": True})
        if not isinstance(text, str) or not text:
            raise ModelError(self.settings.path, f"{json.dumps(value)} stands in the place of a token.")
        return AddedToken(text, **{name: given[name] is True for name in _FLAGS if name in given} | flags)


def read_backend(config: FolderConfig) -> Tokenizer:
    """tokenizer.json, brought to what transformers makes of the folder. Raises ModelError."""
    path = config.path / "tokenizer.json"
    source = _read_source(path)
    with _LibraryErrors(path):
        backend = Tokenizer.from_str(source)
    backend.no_truncation()
    backend.no_padding()
    declared_class = config.settings.text("tokenizer_class", "").removesuffix("Fast")
    if declared_class == "LlamaTokenizer" and '"ByteLevel"' not in source:
        _rebuild_as_llama(backend, config.settings.values)
    _add_tokens(backend, config)
    return backend


def _rebuild_as_llama(backend: Tokenizer, values: Mapping[str, Any]) -> None:
    """transformers' LlamaTokenizer takes vocabulary and merges from tokenizer.json and makes the rest itself: a space
    is put before a text (with `legacy`, also behind each special token) unless one is there already."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    scheme = "always" if values.get("legacy") else "first"
    if values.get("add_prefix_space") is False:
        scheme = "never"
    else:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    backend.decoder = decoders.Sequence(steps)


def _add_tokens(backend: Tokenizer, config: FolderConfig) -> None:
    """A numbered token is added again where it differs from tokenizer.json's, and one with a role is special; any other
    is added if it is new."""
    known = list(backend.get_added_tokens_decoder().values())
    by_role = list(config.tokens_by_role().values())
    given = config.numbered_tokens()
    numbered = known if given is None else given
    before = {repr(token) for token in known}
    for token in numbered:
        token.special = token.special or token.content in {other.content for other in by_role}
    changed = [token for token in numbered if repr(token) not in before]
    contents = {token.content for token in known + changed}
    others = by_role + config.tokens_without_role()
    backend.add_tokens(changed + [token for token in others if token.content not in contents])


@dataclass(frozen=True, slots=True)
class _LibraryErrors:
    """Whatever is wrong with a tokenizer, `tokenizers` raises the bare class Exception, none of its subclasses; or it
    panics, which is no Exception at all and has a class that cannot be imported. Just these become a ModelError."""

    path: Path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            raise ModelError(self.path, f"this is no tokenizer that can be used: {error}.") from error


def _read_source(path: Path) -> str:
    try:
        return read_whole(path).decode("utf-8")
    except FileNotFoundError as error:
        hint = "tokenizer.model and vocab.json are not read; transformers' save_pretrained writes the file."
        raise ModelError(path, f"there is no such file. {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(path, f"cannot be read: {error}.") from error


def _read_if_there(path: Path) -> dict[str, Any]:
    return dict(JsonObject.read(path).values) if path.exists() else {}
