"""From a command line to settings: the parser, its help and its errors, all made of the settings' own fields.

pydantic-settings has a command line of its own, but that shows no environment names, prints Python types for values,
answers a bad value with a traceback naming the attribute, and wants JSON for a list in the environment. So argparse
splits the words here, and only that; environment, precedence and validation stay with pydantic-settings.
"""

import argparse
import difflib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app.settings import PullSettings

MAX_COLUMNS = 100
POSITIONAL = ("model", "folder")
SECRET = "api_key"
SettingsT = TypeVar("SettingsT", bound=PullSettings)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as a person meets it."""

    name: str  # the attribute
    flag: str  # --max-num-seqs; MODEL where it is a word
    environment: str  # SLOTWISE_MAX_NUM_SEQS
    group: str
    metavar: str
    meaning: str
    default: str  # in words
    is_switch: bool
    is_list: bool
    is_word: bool
    is_required: bool  # on the command line, wherever else it might stand


def options_of(settings: type[PullSettings]) -> tuple[Option, ...]:
    """The options in the order in which the class has them."""
    prefix = settings.model_config["env_prefix"]
    return tuple(_option(name, field, prefix) for name, field in settings.model_fields.items())


def _option(name: str, field: FieldInfo, prefix: str) -> Option:
    shown: Any = field.json_schema_extra
    return Option(
        name=name,
        flag=shown["metavar"] if name in POSITIONAL else shown["flag"] or "--" + name.replace("_", "-"),
        environment=prefix + name.upper(),
        group=shown["group"],
        metavar=shown["metavar"],
        meaning=field.description or "",
        default=shown["said"] or _default_in_words(field.default),
        is_switch=field.annotation is bool,
        is_list=isinstance(field.default, tuple),
        is_word=name in POSITIONAL,
        is_required=field.is_required(),
    )


def _default_in_words(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None else str(default)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help fits a terminal."""

    def __init__(self, **kwargs: Any) -> None:
        width = min(MAX_COLUMNS, shutil.get_terminal_size().columns)
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=width),
            **kwargs,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


class Switch(argparse.BooleanOptionalAction):
    """Of a flag and the one that turns it off the first line of the help names but the flag: it would break nowhere."""

    def format_usage(self) -> str:
        return self.option_strings[0]


def add_options(parser: Parser, settings: type[PullSettings]) -> None:
    """Every option under its heading. Values stay words: the settings read them, whether from here or elsewhere."""
    sections: dict[str, Any] = {}
    for option in sorted(options_of(settings), key=lambda option: not option.is_word):
        if option.group not in sections:
            sections[option.group] = parser.add_argument_group(option.group)
        word = option.name if option.is_word else option.flag
        sections[option.group].add_argument(
            word, **_argument(option), **({} if option.is_word else {"dest": option.name})
        )


def _argument(option: Option) -> dict[str, Any]:
    elsewhere = "" if option.is_required else f" [{option.environment}; default: {option.default}]"
    text = option.meaning + elsewhere
    argument: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if option.is_switch:
        return argument | {"action": Switch}
    if option.is_list:
        argument["action"] = "append"
    if option.is_word and not option.is_required:
        argument["nargs"] = "?"
    return argument | {"metavar": option.metavar}


def read_settings(
    parser: Parser, settings: type[SettingsT], given: Mapping[str, Any], unknown: Sequence[str]
) -> SettingsT:
    """`given` and `unknown` as `parse_known_args` splits them. Exits with status 2 and a line for each mistake."""
    if unknown:
        parser.error(_unknown(unknown[0], settings))
    for name, meant in _misspelt_variables(settings):
        sys.stderr.write(f"{parser.prog}: warning: no option reads {name}; did you mean {meant}?\n")
    try:
        return settings(**given)
    except ValidationError as error:
        known = {option.name: option for option in options_of(settings)}
        mistakes = [_mistake(details, known, given) for details in error.errors()]
        parser.error(f"\n{parser.prog}: error: ".join(mistakes))


def _unknown(word: str, settings: type[PullSettings]) -> str:
    if not word.startswith("-"):
        words = [option for option in options_of(settings) if option.is_word]
        most = " and one ".join(option.flag for option in words) + " at most" * any(not w.is_required for w in words)
        return f"{word} is one word too many; {f'there is one {most}' if words else 'none is needed'}"
    word = word.partition("=")[0]
    close = difflib.get_close_matches(word, [option.flag for option in options_of(settings)], n=1)
    return f"there is no option {word}" + (f"; did you mean {close[0]}?" if close else "")


def _misspelt_variables(settings: type[PullSettings]) -> Iterator[tuple[str, str]]:
    """Variables that are almost an option's, and which. Others with the prefix are let be: Kubernetes makes some of its
    own, SLOTWISE_SERVICE_HOST and the like, where a service is named slotwise."""
    known = [option.environment for option in options_of(settings)]
    prefix = settings.model_config["env_prefix"]
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known:
            yield from ((name, meant) for meant in difflib.get_close_matches(name, known, n=1, cutoff=0.85))


def _mistake(details: ErrorDetails, known: Mapping[str, Option], given: Mapping[str, Any]) -> str:
    """One line: where the value came from, what it is unless it is secret, and what would be right."""
    problem = details["msg"].removeprefix("Value error, ").partition(", unable")[0]
    problem = problem.replace("Input should be", "must be")
    if not details["loc"]:
        return problem
    option = known[str(details["loc"][0])]
    if option.name == SECRET:
        return f"{option.flag} ({option.environment}): {problem}"
    value = str(details["input"])
    value = value if value and value.isprintable() else repr(value)
    source = f"{option.flag} {value}" if option.name in given else f"{option.environment}={value} ({option.flag})"
    return f"{source}: {problem}"
