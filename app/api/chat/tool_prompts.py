"""Tools, calls and their results as plain messages, for models whose chat template knows nothing of tools. The tags are
those that `parser` reads, and that Qwen, Hermes and MiniMind models were taught."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from app.api.chat.parser import END_OF_TOOL_CALL, TOOL_CALL
from app.api.schemas.tools import Tool

INSTRUCTIONS = """You can call functions. Each line here describes one of them, in JSON:
{functions}

To call one, write its name and its arguments like this:
{call}"""
EXAMPLE = {"name": "name_of_the_function", "arguments": {"name_of_a_parameter": "its value"}}


def in_plain_messages(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
    """A system message tells of `tools`, if there are any; calls become the assistant's text, and results the
    user's."""
    told: list[Mapping[str, Any]] = []
    for is_result, group in groupby(messages, lambda message: bool(message["role"] == "tool")):
        side_by_side = list(group)
        told += [_results(side_by_side)] if is_result else map(_in_text, side_by_side)
    if not tools:
        return told
    functions = "\n".join(_json(tool.for_template()["function"]) for tool in tools)
    instructions = INSTRUCTIONS.format(functions=functions, call=_call(EXAMPLE))
    if told[0]["role"] != "system":
        return [{"role": "system", "content": instructions}, *told]
    return [{**told[0], "content": f"{told[0]['content']}\n\n{instructions}"}, *told[1:]]


def _results(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    results = [f"<tool_response>\n{message['content']}\n</tool_response>" for message in messages]
    return {"role": "user", "content": "\n".join(results)}


def _in_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_calls" not in message:
        return message
    lines = [message["content"]] if message["content"] else []
    lines += [_call(call["function"]) for call in message["tool_calls"]]
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": "\n".join(lines)}


def _call(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    text = arguments or "{}" if isinstance(arguments, str) else _json(arguments)
    return f'{TOOL_CALL}\n{{"name": {_json(function["name"])}, "arguments": {text}}}\n{END_OF_TOOL_CALL}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
