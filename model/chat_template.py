"""A model's chat template: messages in, the prompt's text out, byte for byte as transformers' apply_chat_template
has it.

A template comes with the model and is not trusted: it runs in jinja2's immutable sandbox, with nothing in reach but the
values it is given, and is stopped when it takes too long or makes too much (`template_bounds.py`). Token ids are no
business of this module.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from model.chat_messages import Arguments, ChatTemplateError, CostlyTemplateError, prepare
from model.errors import ModelError
from model.formats.ordinary_file import read_whole
from model.formats.tokenizer_folder import FolderConfig
from model.template_bounds import EFFORT, BoundedEnvironment, Effort, TemplateBound

# What an expression in a template can raise besides jinja2's own errors. `{{ 1 / 0 }}` is the template's fault, or the
# fault of the messages it was given; it is never ours. Constants are computed when a template is compiled, so that it
# may happen then, too. NameError: a constant that is infinite, which jinja2 writes as the name `inf`.
_PYTHON_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NameError,
    RecursionError,
    MemoryError,
)
_PROBE_ANSWER = "slotwise-probe-answer"


class ChatTemplate:
    """Compiled once, rendered from any thread."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], tool_use_source: str | None = None) -> None:
        """`special_tokens` are variables of the template: {"bos_token": …, "eos_token": …}. `tool_use_source` takes the
        place of `source` where tools are given. Raises ChatTemplateError for a template that does not compile."""
        self.source = source
        self.tool_use_source = tool_use_source
        self._template = _compile(source)
        self._tool_use_template = self._template if tool_use_source is None else _compile(tool_use_source)
        sources = [source] if tool_use_source is None else [source, tool_use_source]
        self.variables = frozenset[str]().union(*map(_variables, sources))  # that it asks for
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_folder(cls, path: Path) -> "ChatTemplate | None":
        """The template in a Hugging Face folder; None if it has none. Raises ModelError for a broken one."""
        config = FolderConfig.read(path)
        sources = _folder_sources(config)
        return cls.load(sources.get("default"), config.special_tokens, path, sources.get("tool_use"))

    @classmethod
    def load(
        cls, source: str | None, special_tokens: Mapping[str, str], path: Path, tool_use_source: str | None = None
    ) -> "ChatTemplate | None":
        """As the constructor, for a template found at `path`: raises ModelError, which names it."""
        if source is None:
            return None
        try:
            return cls(source, special_tokens, tool_use_source)
        except ChatTemplateError as error:
            raise ModelError(path, f"the chat template cannot be used: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """`kwargs` are further variables of the template: tools, enable_thinking, … `continue_final_message`: the text
        ends where the content of the last message does. Raises ChatTemplateError."""
        if continue_final_message:
            return self._render_open(messages, **kwargs)
        if not messages:
            raise ChatTemplateError("messages is empty; a chat has at least one message.")
        if "messages" in kwargs:
            raise ChatTemplateError("the template's variable 'messages' is the chat itself and cannot be set.")
        variables = {**self._special_tokens, "tools": None, "documents": None, **kwargs}
        variables["messages"] = [prepare(message) for message in messages]
        variables |= {"add_generation_prompt": add_generation_prompt, EFFORT: Effort()}
        template = self._template if variables["tools"] is None else self._tool_use_template
        try:
            return template.render(variables)
        except TemplateBound as error:
            raise CostlyTemplateError(error.message) from error
        except TemplateError as error:
            raise ChatTemplateError(error.message or type(error).__name__) from error
        except _PYTHON_ERRORS as error:
            raise ChatTemplateError(f"{type(error).__name__}: {error}") from error

    def _render_open(self, messages: Sequence[Mapping[str, Any]], **kwargs: Any) -> str:
        """A mark shows where the last content ends; the space behind it, whether the template trims contents: then it
        would have trimmed the end of this one."""
        content = prepare(messages[-1]).get("content") if messages else None
        if not content:
            raise ChatTemplateError("the last message has no content that could be continued.")
        mark = f"<{secrets.token_hex(16)}>"
        marked = [*messages[:-1], {**messages[-1], "content": f"{content}{mark} "}]
        text, found, behind = self.render(marked, add_generation_prompt=False, **kwargs).rpartition(mark)
        if not found:
            raise ChatTemplateError("the chat template changes the last message, so that it cannot be continued.")
        return text if behind.startswith(" ") else text.rstrip()

    def text_behind_answer(self) -> str:
        """What the template writes behind an assistant's message: the model was taught to end its answers so. Empty if
        the template refuses so plain a chat, or changes the answer. Raises CostlyTemplateError."""
        chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE_ANSWER}]
        try:
            before, answer, behind = self.render(chat, add_generation_prompt=False).rpartition(_PROBE_ANSWER)
        except CostlyTemplateError:
            raise
        except ChatTemplateError:
            return ""
        return behind if answer else ""


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        {"tojson": _tojson}, trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _compile(source: str) -> Template:
    try:
        return _environment().compile_bounded(source)
    except TemplateError as error:
        raise ChatTemplateError(f"line {getattr(error, 'lineno', 1)}: {error.message}") from error
    except (SyntaxError, *_PYTHON_ERRORS) as error:  # SyntaxError: more nesting than Python takes
        raise ChatTemplateError(f"{type(error).__name__}: {error}") from error


def _variables(source: str) -> frozenset[str]:
    """Of a template that compiles."""
    return frozenset(meta.find_undeclared_variables(_environment().parse(source)))


class _GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks what the assistant wrote, for training. Here only its text
    counts, and that variables set inside stay inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """In place of jinja2's own, which escapes HTML."""
    if isinstance(value, Arguments):
        return value.text
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _folder_sources(config: FolderConfig) -> dict[str, str]:
    """Templates by name. Files take the place of all that stands in tokenizer_config.json, as in transformers."""
    extra = sorted((config.path / "additional_chat_templates").glob("*.jinja"))
    files = {path.stem: path for path in extra} | {"default": config.path / "chat_template.jinja"}
    sources = {name: _read_text(path) for name, path in files.items() if path.is_file()} or config.chat_templates
    if sources and "default" not in sources:
        names = ", ".join(sorted(sources))
        raise ModelError(config.path, f"has chat templates named {names}, but none named default.")
    return sources


def _read_text(path: Path) -> str:
    try:
        return read_whole(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(path, f"cannot be read: {error}.") from error
