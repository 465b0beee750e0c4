"""`python -m tests.peers.run`: slotwise and its peers in turn, the same client, ratios.

In each round every server is started, asked every question, and stopped, slotwise before each peer; so a slow minute of
the machine falls on all of them. Peers are named by options or the environment; those that are not, are left out.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.cpu import num_usable_cores
from model.options import DEFAULT_MODEL_NAME
from tests.peers.measures import MEASURES, Cell, cells
from tests.peers.neighbours import with_neighbours
from tests.peers.openvino_process import OpenVino
from tests.peers.servers import Peer, llama_server, slotwise, vllm
from tests.peers.workload import Figures

OURS = "slotwise"
NOISY = 0.1  # cores that others use, from which on a figure is doubtful


@dataclass(frozen=True, slots=True)
class Sample:
    server: str
    cell: Cell
    round: int
    figures: Figures
    neighbours: float  # cores


def sample(peer: Peer, questions: Sequence[Cell], round_number: int, arguments: argparse.Namespace) -> list[Sample]:
    samples = []
    with peer.start() as running:
        for cell in questions:
            workload = cell.workload(arguments.requests, arguments.seed + round_number, arguments.temperature)
            figures, neighbours = with_neighbours(lambda w=workload: running.measure(w), running.pid)  # type: ignore[misc]
            samples.append(Sample(peer.name, cell, round_number, figures, neighbours))
            say(
                f"round {round_number}  {peer.name:28}  {cell.label:52}  {cell.value(figures):8.1f}"
                f"  others {neighbours:.2f} cores"
            )
    return samples


def medians(samples: Sequence[Sample], cell: Cell) -> dict[str, float]:
    """Of each server, over the rounds."""
    values: dict[str, list[float]] = {}
    for one in samples:
        if one.cell == cell:
            values.setdefault(one.server, []).append(cell.value(one.figures))
    return {server: statistics.median(of_rounds) for server, of_rounds in values.items()}


def table(samples: Sequence[Sample]) -> str:
    """Markdown: the medians, and after each peer's how many times better ours is."""
    servers = list(dict.fromkeys(one.server for one in samples))
    lines = ["| " + " | ".join(["measure", *servers]) + " |", "|---|" + "---|" * len(servers)]
    for cell in dict.fromkeys(one.cell for one in samples):
        values = medians(samples, cell)
        row = [f"{values[server]:.0f}{ratio(cell, values, server)}" for server in servers]
        lines.append("| " + " | ".join([cell.label, *row]) + " |")
    noisy = sum(one.neighbours > NOISY for one in samples)
    if noisy:
        lines.append(f"\n{noisy} of {len(samples)} figures were taken while others used more than {NOISY} of a core.")
    return "\n".join(lines)


def ratio(cell: Cell, values: Mapping[str, float], peer: str) -> str:
    if OURS not in values or peer == OURS:
        return ""
    return f" ({cell.times_better(values[OURS], values[peer]):.2f}×)"


def peers(arguments: argparse.Namespace) -> list[Peer]:
    threads, slots = arguments.threads, arguments.slots
    found: list[Peer] = []
    if arguments.llama_server:
        flags = arguments.llama_flags.split()
        found += [llama_server(arguments.llama_server, file, threads, slots, flags) for file in arguments.llama_model]
    if arguments.vllm:
        found.append(vllm(arguments.vllm, arguments.vllm_model, slots, arguments.vllm_flags.split()))
    if arguments.openvino:
        found.append(OpenVino(arguments.openvino, arguments.openvino_model, threads))
    return found


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="python -m tests.peers.run", description=(__doc__ or "").partition("\n")[2])
    words.add_argument("--rounds", type=int, default=3, help="medians are over these")
    words.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    words.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16, 32], help="of the decode measure")
    words.add_argument("--requests", type=int, default=2, help="of each worker in each cell; 1 is the short mode")
    words.add_argument("--temperature", type=float, default=0.0)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--threads", type=int, default=num_usable_cores(), help="of every server")
    words.add_argument("--slots", type=int, default=32, help="requests that a peer may run at once")
    words.add_argument("--out", type=Path, help="file for every figure, as JSON")
    words.add_argument("--without-slotwise", action="store_true", help="measure the peers alone")
    words.add_argument("--model", default=DEFAULT_MODEL_NAME, help="what slotwise serves")
    words.add_argument("--slotwise-flags", default="", help="more words for `slotwise serve`, in one argument")
    from_environment(words, "--llama-server", "the program")
    files = os.environ.get("LLAMA_MODEL", "").split(os.pathsep)
    words.add_argument("--llama-model", nargs="+", default=files, help="GGUF files, a peer each [LLAMA_MODEL]")
    from_environment(words, "--llama-flags", "more words for it")
    from_environment(words, "--vllm", "the program")
    from_environment(words, "--vllm-model", "Hugging Face folder")
    from_environment(words, "--vllm-flags", "more words for it")
    from_environment(words, "--openvino", "the Python that has openvino_genai")
    from_environment(words, "--openvino-model", "exported folder")
    return words


def from_environment(words: argparse.ArgumentParser, flag: str, meaning: str) -> None:
    name = flag.removeprefix("--").upper().replace("-", "_")
    words.add_argument(flag, default=os.environ.get(name, ""), help=f"{meaning} [{name}]")


def main(given: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(given)
    questions = cells(arguments.measure, arguments.concurrency)
    ours = slotwise(arguments.model, arguments.threads, arguments.slotwise_flags.split())
    theirs = peers(arguments)
    in_turn = [server for peer in theirs for server in (ours, peer)] or [ours]
    turns = theirs if arguments.without_slotwise else in_turn
    samples: list[Sample] = []
    for number in range(arguments.rounds):
        for peer in turns:
            samples += sample(peer, questions, number, arguments)
    sys.stdout.write(table(samples) + "\n")
    if arguments.out:
        arguments.out.write_text(json.dumps([record(one) for one in samples], indent=1))


def record(one: Sample) -> dict[str, Any]:
    return asdict(one) | {"value": one.cell.value(one.figures)}


if __name__ == "__main__":
    main()
