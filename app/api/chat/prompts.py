"""The messages of a chat, by the model's own template → the prompt, and where in the answer it leaves off. Slow for
long chats: called on a thread, never on the event loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.chat.client_texts import ClientTexts, new_mark
from app.api.chat.parser import END_OF_THINK, THINK, Start
from app.api.chat.tool_prompts import in_plain_messages
from app.api.errors import InvalidRequest
from app.api.prompts import encode
from app.api.schemas.chat import THINKING_SWITCHES, ChatRequest
from app.api.served import ChatTemplate, ServedModel


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    text: str
    token_ids: list[int]
    start: Start  # where what the model says begins


def chat_prompt(body: ChatRequest, served: ServedModel, *, add_special_tokens: bool = False) -> ChatPrompt:
    """Raises InvalidRequest."""
    text, mark = _marked_text(body, served)
    start = _start(body, text)
    if not body.continue_final_message:
        _check_thinking(body, start, _template(served).variables)
        if body.thinking and body.follows_grammar and start is Start.ANSWER:
            # the template leaves it to the model to open its reasoning, and a grammar is to begin behind it
            text, start = f"{text}{THINK}\n", Start.REASONING
    token_ids = encode(served.tokenizer, text, "messages", add_special_tokens=add_special_tokens, mark=mark)
    return ChatPrompt(text.replace(mark, ""), token_ids, start)


def _marked_text(body: ChatRequest, served: ServedModel) -> tuple[str, str]:
    """The prompt, and the mark that stands in it where a client named a special token."""
    template = _template(served)
    theirs = ClientTexts(served.tokenizer, new_mark())
    if body.add_generation_prompt is False and "add_generation_prompt" not in template.variables:
        raise InvalidRequest("add_generation_prompt", "the model's chat template always opens the answer")
    variables = _variables(body, served, template.variables)
    messages: list[Mapping[str, Any]] = [message.for_template() for message in body.messages]
    if "tools" not in template.variables:
        messages = in_plain_messages(messages, body.offered_tools)
    elif body.offered_tools:
        variables["tools"] = [tool.for_template() for tool in body.offered_tools]
    text = _render(
        template,
        theirs.marked(messages),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=bool(body.continue_final_message),
        **theirs.marked(variables),
    )
    return text, theirs.mark


def _template(served: ServedModel) -> ChatTemplate:
    if served.chat_template is None:
        raise InvalidRequest("messages", "this model has no chat template; use /v1/completions")
    return served.chat_template


def _render(template: ChatTemplate, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The template writes the model's special tokens itself."""
    try:
        return template.render(messages, **variables)
    except ValueError as error:
        raise InvalidRequest("messages", f"the model's chat template refuses them: {error}") from None


def _variables(body: ChatRequest, served: ServedModel, known: frozenset[str]) -> dict[str, Any]:
    """The request's, for the template. Whether to reason first goes by several names, of which the template may know
    one; an answer that has to follow a grammar is asked for without, unless the request says otherwise."""
    given = {name: value for name, value in (body.chat_template_kwargs or {}).items() if name not in THINKING_SWITCHES}
    for name in given:
        if name not in known or name in served.tokenizer.special_tokens:
            raise InvalidRequest(f"chat_template_kwargs.{name}", "the chat template has no such variable to set")
    if body.reasoning_effort is not None and "reasoning_effort" in known:
        given["reasoning_effort"] = body.reasoning_effort
    thinking = False if body.thinking is None and body.follows_grammar else body.thinking
    return given if thinking is None else {**given, **dict.fromkeys(known.intersection(THINKING_SWITCHES), thinking)}


def _check_thinking(body: ChatRequest, start: Start, known: frozenset[str]) -> None:
    """A template that cannot be told has the model reason always or never; what else is asked for is refused."""
    if body.thinking is None or known.intersection([*THINKING_SWITCHES, "reasoning_effort"]):
        return
    if body.thinking != (start is Start.REASONING):
        does = "does not open" if body.thinking else "always opens"
        problem = f"this model's chat template {does} reasoning, and cannot be told otherwise"
        raise InvalidRequest(next(iter(body.told_of_thinking)), problem)


def _start(body: ChatRequest, text: str) -> Start:
    if body.continue_final_message:
        begun = (body.messages[-1].text or "").lstrip()
        return Start.REASONING if begun.startswith(THINK) and END_OF_THINK not in begun else Start.CONTENT
    return Start.REASONING if text.rstrip("\n").endswith(THINK) else Start.ANSWER
