"""`slotwise bench`: its commands, and which module each of them is."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.bench import compare, quick, report, serve, sweep


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


COMMANDS = (
    Command("serve", "Put a load, or several, on a running server and measure it.", serve.add_arguments, serve.run),
    Command("sweep", "Find the knee, or the highest load within given limits.", sweep.add_arguments, sweep.run),
    Command("quick", "Say in under a minute what a server does.", quick.add_arguments, quick.run),
    Command("compare", "Compare two saved results.", compare.add_arguments, compare.run),
    Command("report", "Write saved results as one HTML page.", report.add_arguments, report.run),
)


def main(argv: Sequence[str]) -> int:
    """Exit status: that of the command; 2 something for the user to mend."""
    parser = ArgumentParser(prog="slotwise bench", description="A load test for any server with OpenAI's API.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    namespace = parser.parse_args(argv)
    run: Callable[[Namespace], int] = namespace.run
    return run(namespace)
