"""`slotwise bench serve`: one load or several on a running server, from the command line to the exit status."""

from argparse import ArgumentParser, Namespace

from rich.console import Console

from app.bench.ending import conclude, mendable
from app.bench.loop import in_loop
from app.bench.measure import measuring
from app.bench.metrics import DEFINITIONS
from app.bench.options import add_figure_options, add_load_options, add_server_options, add_workload_options
from app.bench.outputs import Outputs, add_output_options
from app.bench.plan import make_plan
from app.bench.records import RunResult
from app.bench.terminal import show_results


def add_arguments(parser: ArgumentParser) -> None:
    add_server_options(parser)
    add_workload_options(parser)
    add_load_options(parser)
    add_figure_options(parser)
    add_output_options(parser)
    parser.add_argument_group("Proof").add_argument(
        "--verify",
        action="store_true",
        help="Afterwards ask some requests again, each alone: exit status 1 unless every answer is the same.",
    )
    for name, meaning in DEFINITIONS.items():
        parser.add_argument_group(f"What {name} is", meaning)


def run(arguments: Namespace) -> int:
    """Exit status: 0; 1 an assertion failed, answers differ, or no request was answered; 2 something for the user to
    mend, which is said on stderr; 130 interrupted, after the figures as far as they go."""
    return mendable("serve", lambda: in_loop(_serve(arguments, Outputs.read(arguments))))


async def _serve(options: Namespace, outputs: Outputs) -> int:
    plan = await make_plan(options)
    with measuring(plan.source, outputs, is_verified=options.verify) as (measure, stop):
        results: list[RunResult] = []
        for number, load in enumerate(plan.loads):
            results.append(await measure(outputs.with_percentiles(load), number, stop=stop))
            if stop.is_set():
                break
    console = Console()
    show_results(console, results)
    return conclude(console, outputs, results, is_interrupted=stop.is_set())
