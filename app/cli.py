"""The `slotwise` command. Each subcommand is a few lines and imports what it runs only when it is chosen: torch and
the web framework take seconds to import, and `--help` needs neither."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.arguments import Parser, add_options, read_settings
from app.listener import AddressError
from app.settings import ExportSettings, ExportTokenizerSettings, PullSettings, ServeSettings, ShowSettings
from app.signals import INTERRUPTED, unwinding
from app.version import installed_version
from model.errors import ExportError, ModelError

BENCH = "bench"
USER_ERROR = 2  # something for the user to mend: a flag, a model, a port


def serve(settings: ServeSettings) -> int:
    from app.main import serve

    return serve(settings)


def pull(settings: PullSettings) -> int:
    from model.default_model import pull

    sys.stdout.write(f"{pull(settings.cache_dir)}\n")
    return 0


def show(settings: ShowSettings) -> int:
    from app.show import show

    show(settings.load_options(), as_json=settings.as_json)
    return 0


def export(settings: ExportSettings) -> int:
    from model.huggingface_export import export

    export(settings.load_options(), settings.folder, settings.dtype)
    sys.stdout.write(f"{settings.folder}\n")
    return 0


def export_tokenizer(settings: ExportTokenizerSettings) -> int:
    from model.tokenizer_export import export_tokenizer

    export_tokenizer(settings.load_options(), settings.folder)
    sys.stdout.write(f"{settings.folder}\n")
    return 0


def bench(argv: Sequence[str]) -> int:
    from app.bench.commands import main

    return main(argv)


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    settings: type[PullSettings]
    run: Callable[[Any], int]


COMMANDS = (
    Command("serve", "Serve a model over HTTP, with OpenAI's API.", ServeSettings, serve),
    Command("pull", "Fetch the default model, check it, and print where it is.", PullSettings, pull),
    Command("show", "Print what a model is: dimensions, memory, tokenizer, adapters that fit.", ShowSettings, show),
    Command("export", "Write a model as a folder that transformers reads.", ExportSettings, export),
    Command(
        "export-tokenizer",
        "Write a model's tokenizer alone as such a folder.",
        ExportTokenizerSettings,
        export_tokenizer,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 the server failed; 2 something for the user to mend; 128 + n ended by signal n."""
    words = sys.argv[1:] if argv is None else argv
    if list(words[:1]) == [BENCH]:
        return bench(words[1:])  # a client, whose options are no settings of a server
    parser = Parser(prog="slotwise", description="An inference server that gives every request a KV cache of its own.")
    parser.add_argument("--version", action="version", version=f"slotwise {installed_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        subparser.set_defaults(command=command, parser=subparser)
        add_options(subparser, command.settings)
    subparsers.add_parser(BENCH, help="Measure a running server, this one or another.", add_help=False)
    namespace, unknown = parser.parse_known_args(words)
    given = vars(namespace)
    command, subparser = given.pop("command", None), given.pop("parser", parser)
    if command is None:
        parser.print_help(sys.stderr)
        return USER_ERROR
    return _run(command, read_settings(subparser, command.settings, given, unknown))


def _run(command: Command, settings: PullSettings) -> int:
    try:
        with unwinding():
            return command.run(settings)
    except (ModelError, ExportError, AddressError) as error:
        sys.stderr.write(f"slotwise {command.name}: error: {error}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"slotwise {command.name}: interrupted.\n")
        return INTERRUPTED
