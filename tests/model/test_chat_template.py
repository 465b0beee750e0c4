import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model import template_bounds
from model.chat_messages import CostlyTemplateError
from model.chat_template import ChatTemplate, ChatTemplateError
from model.default_model import find_or_fetch
from model.errors import ModelError
from model.formats import gguf_tokenizer
from model.formats.gguf_metadata import read_metadata
from tests.model.minimind_data import MINIMIND, TEMPLATE_FILES, golden_lines, needs_minimind, tokenizer_folder
from tests.model.tokenizer_folders import byte_level, save

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": "Hi <b> & 'q' é 你好 😀"}
ASSISTANT = {"role": "assistant", "content": "Yes?"}
CHAT = [{"role": "system", "content": "Be brief."}, USER, ASSISTANT, {"role": "user", "content": "  more\n"}]
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {"z": [1, 2.5], "a": None}}}
]


def oracle() -> PreTrainedTokenizerFast:
    added = [AddedToken(token, special=True) for token in SPECIAL_TOKENS.values()]
    backend = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), added)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS)


def render(source: str, messages: Any = (USER,), **kwargs: Any) -> str:
    return ChatTemplate(source, SPECIAL_TOKENS).render(messages, **kwargs)


TEMPLATES = {
    "plain": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}\n{% endfor %}",
    "white space": "  {% if true %}\n  x\n  {%- endif %}\n\n{% for m in messages %}\n    {{ m.role }}\n"
    "{% endfor %}\nend\n",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macros": "{% macro say(m, end='.') %}<{{ m.role }}>{{ m.content | trim }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{{ say(m, end='!') }}{% endfor %}",
    "loop": "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}{{ ' last' if loop.last }}"
    "{{ loop.previtem.role if loop.previtem }};{% endfor %}",
    "break and continue": "{% for m in messages %}{% if m.role == 'assistant' %}{% break %}{% endif %}"
    "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "tojson": "{{ tools | tojson }}{{ tools | tojson(indent=2) }}{{ messages | tojson(sort_keys=true) }}"
    "{{ messages[0] | tojson(separators=(',', ':'), ensure_ascii=true) }}",
    "generation": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.content }}{{ x }}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "strftime_now": "{{ strftime_now('%% at %%') }}",
    "undefined": "{{ pad_token }}{{ tools is none }}{{ documents is none }}{{ no is defined }}{{ messages[0].name }}",
    "variables": "{{ enable_thinking is true }}{{ add_generation_prompt }}{{ bos_token }}",
    "slices and filters": "{{ messages[1:] | length }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages[::-1][0].content.split(' ')[-1].strip() }}{{ messages | map(attribute='role') | join(',') }}",
    "escapes": "{{ '<|im_start|>\\n\\t' }}{{ \"it's\" }}{{ messages[0].content | upper | e }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }};{% endfor %}",
    "absent": "{% for m in messages %}{{ 'content' in m }}{{ m.tool_calls is defined }}{% endfor %}",
}
CHATS = {
    "chat": CHAT,
    "reasoning": [USER, ASSISTANT | {"reasoning_content": "hm"}, ASSISTANT | {"thinking": "a", "reasoning": "b"}],
    "none": [USER, {"role": "assistant", "content": None, "tool_calls": None, "reasoning": None}],
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_what_transformers_gives(name, chat):
    source, theirs = TEMPLATES[name], oracle()

    for kwargs in (
        {"add_generation_prompt": True},
        {"add_generation_prompt": False, "tools": TOOLS, "enable_thinking": True, "bos_token": "<other>"},
    ):
        try:
            expected = theirs.apply_chat_template(CHATS[chat], chat_template=source, tokenize=False, **kwargs)
        except TemplateError as error:
            with pytest.raises(ChatTemplateError, match=re.escape(str(error))):
                render(source, CHATS[chat], **kwargs)
        else:
            assert render(source, CHATS[chat], **kwargs) == expected


def golden(era: str, folder: Path) -> tuple[ChatTemplate, list[dict[str, Any]]]:
    template = ChatTemplate.from_folder(tokenizer_folder(era, folder))
    assert template is not None
    return template, golden_lines("templates", era)


def has_parts(line: dict[str, Any]) -> bool:
    return any(isinstance(message.get("content"), list) for message in line["messages"])


NUM_LINES = {"v1": (26, 0), "v2-early": (26, 0), "v2-250426": (30, 0), "v2": (49, 1), "v3": (49, 1)}  # and with parts


@needs_minimind
@pytest.mark.parametrize("era", TEMPLATE_FILES)
def test_minimind_gives_its_golden_prompts(era, tmp_path):
    template, lines = golden(era, tmp_path)

    assert (len(lines), sum(map(has_parts, lines))) == NUM_LINES[era]
    for line in lines:
        if not has_parts(line):
            assert template.render(line["messages"], tools=line["tools"], **line["kwargs"]) == line["text"]


@needs_minimind
@pytest.mark.parametrize("era", ["v2", "v3"])
def test_arguments_as_text_are_minimind_s_own_whatever_their_spelling(era, tmp_path):
    """There they are printed as they are, not read and written anew."""
    template, _ = golden(era, tmp_path)

    for arguments in ('{"a":1,  "b":"é<\\u00e9"}', '{"a": 1}', "{}", "", "no JSON", "[1]"):
        call = {"function": {"name": "f", "arguments": arguments}}
        text = template.render([USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
        assert f'{{"name": "f", "arguments": {arguments or "{}"}}}' in text


@needs_minimind
@pytest.mark.parametrize("era", TEMPLATE_FILES)
def test_content_in_parts_is_not_lost_as_it_is_in_minimind_s_golden_prompt(era, tmp_path):
    template, _ = golden(era, tmp_path)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    for role in ("user", "system", "assistant"):
        text = template.render([{"role": role, "content": parts}, USER])
        assert text == template.render([{"role": role, "content": "a\nb"}, USER])
        assert "a\nb" in text


def test_the_default_model_gives_what_transformers_gives():
    metadata = read_metadata(find_or_fetch())
    source = metadata["tokenizer.chat_template"]
    template, theirs = gguf_tokenizer.chat_template(metadata, Path("model.gguf")), oracle()

    assert template is not None
    for chat in (CHAT, CHAT[1:], [USER]):
        for flag in (True, False):
            expected = theirs.apply_chat_template(
                chat, chat_template=source, tokenize=False, add_generation_prompt=flag
            )
            assert template.render(chat, add_generation_prompt=flag) == expected
    assert template.text_behind_answer() == "<|im_end|>\n"


def test_the_time_is_the_present():
    pattern = "%Y-%m-%d %H:%M:%S"
    before = datetime.now().strftime(pattern)

    assert before <= render("{{ strftime_now('" + pattern + "') }}") <= datetime.now().strftime(pattern)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ (strftime_now | attr('__globals__'))['os'] }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ self.__init__.__globals__ }}",
        "{% for i in range(10000000) %}{% endfor %}",
    ],
)
def test_a_template_that_reaches_out_of_the_sandbox_fails(source):
    messages = [dict(USER)]

    with pytest.raises(ChatTemplateError):
        render(source, messages)
    assert messages == [USER]


@pytest.mark.parametrize(
    "expression",
    ["''.__class__", "''['__class__']", "raise_exception.__globals__", "lipsum | attr('__globals__')"],
)
def test_what_is_out_of_reach_is_printed_as_nothing(expression):
    assert render("[{{ " + expression + " }}]") == "[]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "^Roles must alternate$"),
        ("{{ messages[5].content }}", "has no element 5"),
        ("{{ messages[0].content + 1 }}", "TypeError: can only concatenate str"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ nothing | tojson }}", "TypeError: Object of type Undefined is not JSON serializable"),
        ("{{ messages[0].content.index('zz') }}", "ValueError: substring not found"),
        ("{{ strftime_now(5) }}", "TypeError: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{% include 'other' %}", "no loader for this environment|other"),
        ("{{ 1e999 }}", "NameError: name 'inf' is not defined"),
    ],
)
def test_what_goes_wrong_in_a_template_is_said_in_its_own_words(source, message):
    with pytest.raises(ChatTemplateError, match=message):
        render(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\nb\n{% if %}", "^line 3: "),
        ("{% for m in messages %}", "^line 1: Unexpected end of template"),
        ("\n{{ messages | no_such_filter }}", "^line 2: No filter named 'no_such_filter'"),
        ("{% unknown %}", "unknown tag 'unknown'"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "RecursionError"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "SyntaxError: too many statically nested blocks"),
        ("{{ " + "1" * 5000 + " }}", "ValueError: Exceeds the limit"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_at_once(source, message):
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for n in [60] recursive %}{% if n %}{{ loop([n - 1, n - 1]) }}{% endif %}{% endfor %}",
    ],
    ids=["loops in loops", "a macro that calls itself twice", "a recursive loop"],
)
def test_a_template_that_would_never_end_is_stopped(source, monkeypatch):
    monkeypatch.setattr(template_bounds, "MOST_SECONDS", 0.1)
    template = ChatTemplate(source, {})

    with pytest.raises(ChatTemplateError, match=r"took more than 0\.1 seconds and was stopped"):
        template.render([USER], **{template_bounds.EFFORT: None})  # which no request can put off
    with pytest.raises(CostlyTemplateError):
        template.text_behind_answer()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "type 'image_url'"),
        ([{"type": "text", "text": "a"}, {"text": "b"}], "type None"),
        (["a"], "type None"),
        ([{"type": "text"}], "no string under 'text'"),
        ([{"type": "text", "text": 5}], "no string under 'text'"),
    ],
)
def test_content_parts_of_another_kind_are_refused_by_name(content, problem):
    with pytest.raises(ChatTemplateError, match=problem):
        render("{{ messages[0].content }}", [{"role": "user", "content": content}])


def test_text_parts_are_joined_by_newlines():
    parts = [{"type": "text", "text": text} for text in ("a", "", "b")]

    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "a\n\nb"
    assert render("[{{ messages[0].content }}]", [{"role": "user", "content": []}]) == "[]"


def test_the_messages_are_not_a_variable_to_be_set():
    with pytest.raises(ChatTemplateError, match="'messages'"):
        ChatTemplate("x", {}).render([USER], messages=[])
    with pytest.raises(ChatTemplateError, match="messages is empty"):
        render("x", [])
    assert render("{{ cls }}", cls="y") == "y"


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("{{ messages }}{% if tools %}{{ tools | tojson }}{% endif %}", {"messages", "tools"}),
        ("{% if open_thinking is defined and open_thinking is true %}x{% endif %}", {"open_thinking"}),
        ("{% if x is not defined %}{% set x = 1 %}{% endif %}{{ x }}{% set y = 1 %}{{ y }}", {"x"}),
        (
            "{% macro f(a) %}{{ a }}{{ b }}{% endmacro %}{% for c in messages %}{{ f(c) }}{% endfor %}",
            {"b", "messages"},
        ),
        ("{{ raise_exception }}{{ strftime_now }}{{ range }}", set()),
    ],
)
def test_the_variables_are_those_that_the_template_looks_at(source, variables):
    assert ChatTemplate(source, {}).variables == variables
    assert ChatTemplate("{{ z }}", {}, source).variables == variables | {"z"}


OPEN = [USER, {"role": "assistant", "content": "Well, \n"}]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}",
        "{% for m in messages %}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<{% endif %}",
    ],
)
def test_a_last_message_that_is_to_go_on_ends_as_transformers_has_it(source):
    expected = oracle().apply_chat_template(OPEN, chat_template=source, tokenize=False, continue_final_message=True)

    assert render(source, OPEN, continue_final_message=True) == expected


@pytest.mark.parametrize(
    ("source", "content", "problem"),
    [
        ("{{ messages[0].content }}", "Well", "changes the last message"),
        ("{{ messages[1].content[:4] }}", "Well", "changes the last message"),
        ("{{ messages[1].content }}", "", "no content"),
        ("{{ messages[1].content }}", None, "no content"),
        ("{{ raise_exception('no') }}", "Well", "^no$"),
    ],
)
def test_a_last_message_that_cannot_go_on_is_refused(source, content, problem):
    with pytest.raises(ChatTemplateError, match=problem):
        render(source, [USER, {"role": "assistant", "content": content}], continue_final_message=True)


def test_rendering_leaves_the_messages_as_they_are():
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": None, "reasoning": "r"}]
    before = json.dumps(messages)

    render("{{ messages }}", messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("source", "behind"),
    [
        ("{% for m in messages %}{{ m.role }}{{ m.content }}</s>\n{% endfor %}", "</s>\n"),
        ("{{ messages[1].content }}", ""),
        ("{{ messages[0].content }}", ""),
        ("{{ messages[1].content | upper }}</s>", ""),
        ("{{ raise_exception('system prompt needed') }}", ""),
    ],
)
def test_what_stands_behind_an_answer(source, behind):
    assert ChatTemplate(source, {}).text_behind_answer() == behind


# ── folders ──

ENTRIES = [{"name": "default", "template": "in config"}, {"name": "tool_use", "template": "tools in config"}]


def folder(path: Path, files: dict[str, str], **config: Any) -> Path:
    save(byte_level(pre_tokenizers.ByteLevel()), path, **config)
    for name, text in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({}, {"chat_template": "in config {{ eos_token }}", "eos_token": "<end>"}),
        ({}, {"chat_template": "{{ bos_token }}", "bos_token": {"__type": "AddedToken", "content": "<x>"}}),
        ({}, {"chat_template": ENTRIES}),
        ({}, {"chat_template": ENTRIES[:1]}),
        ({"chat_template.jinja": "in file"}, {"chat_template": "in config"}),
        ({"chat_template.jinja": "in file"}, {"chat_template": ENTRIES}),
        ({"chat_template.jinja": "in file", "additional_chat_templates/tool_use.jinja": "tools in file"}, {}),
        (
            {"chat_template.jinja": "in file", "additional_chat_templates/rag.jinja": "other"},
            {"chat_template": ENTRIES},
        ),
        ({"chat_template.jinja": "{{ image_token }}"}, {"image_token": "<image>"}),
    ],
)
def test_a_folder_s_template_is_the_one_that_transformers_takes(files, config, tmp_path):
    path = folder(tmp_path, files, **config)
    ours, theirs = ChatTemplate.from_folder(path), AutoTokenizer.from_pretrained(path)

    assert ours is not None
    for tools in (None, TOOLS):
        assert ours.render([USER], tools=tools) == theirs.apply_chat_template(
            [USER], tools=tools, tokenize=False, add_generation_prompt=True
        )


def test_a_folder_without_a_template_has_none(tmp_path):
    assert ChatTemplate.from_folder(folder(tmp_path, {}, eos_token="<end>")) is None


@pytest.mark.parametrize(
    ("files", "config", "problem"),
    [
        ({"chat_template.jinja": "a\n{% if %}"}, {}, "line 2"),
        ({}, {"chat_template": "{{"}, "line 1"),
        ({}, {"chat_template": [{"name": "rag", "template": "x"}]}, "named rag, but none named default"),
        ({"additional_chat_templates/rag.jinja": "x"}, {"chat_template": "y"}, "named rag, but none named default"),
        ({}, {"chat_template": ENTRIES[:1] + [{"name": "tool_use", "template": "{{"}]}, "line 1"),
    ],
)
def test_a_broken_template_is_a_broken_model(files, config, problem, tmp_path):
    with pytest.raises(ModelError, match=problem):
        ChatTemplate.from_folder(folder(tmp_path, files, **config))


def test_a_template_that_is_no_text_is_a_broken_model(tmp_path):
    path = folder(tmp_path, {})
    (path / "chat_template.jinja").write_bytes(b"\xff\xfe")

    with pytest.raises(ModelError, match=r"chat_template\.jinja: cannot be read"):
        ChatTemplate.from_folder(path)


@needs_minimind
def test_a_saved_export_and_the_original_have_the_same_template(tmp_path):
    shutil.copytree(MINIMIND / "hf" / "v3", tmp_path / "v3", ignore=shutil.ignore_patterns("*.safetensors"))
    export, original = (ChatTemplate.from_folder(path) for path in (tmp_path / "v3", MINIMIND / "tokenizers" / "v3"))

    assert export is not None
    assert original is not None
    assert export.render(CHAT, tools=TOOLS) == original.render(CHAT, tools=TOOLS)
