"""The options of a load on the command line, and the settings they make. What `vllm bench serve` has too has the same
name here. Nothing here asks a server, so what must be asked (the model's name) is left open.
"""

import math
import os
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from app.bench.errors import BadWorkload
from app.bench.records import Endpoint, RunSettings
from app.bench.values import (
    duration,
    json_object,
    limit,
    natural,
    pair,
    percent,
    positive,
    positive_number,
    several,
    share,
    temperature,
)

DEFAULT_PORT = 8000
DEFAULT_DURATION = 60.0
DEFAULT_CONCURRENCY = 8
API_KEY_VARIABLE = "OPENAI_API_KEY"
DATASETS = ("random", "conversation", "custom", "sharegpt")


def _adder(parser: ArgumentParser, title: str) -> Callable[..., None]:
    """Adds options under a heading; `said` is the default in words."""
    group = parser.add_argument_group(title)

    def add(*names: str, help: str, said: str = "", **details: Any) -> None:
        default = details.get("default")
        said = said or ("" if default in (None, False, (), [], {}) else str(default))
        text = f"{help} [default: {said}]" if said else help
        group.add_argument(*names, help=text.replace("%", "%%"), **details)

    return add


def add_server_options(parser: ArgumentParser) -> None:
    add = _adder(parser, "Server")
    add("--base-url", metavar="URL", help="Where it is.", said=f"http://127.0.0.1:{DEFAULT_PORT}")
    add("--host", help="Instead of --base-url.")
    add("--port", type=positive, help="Instead of --base-url.")
    add("--model", metavar="NAME", help="As the server calls it.", said="the first that it has")
    add("--endpoint", metavar="NAME|PATH", help="completions, chat, or the path of one of them.", said="completions")
    add("--backend", choices=("openai", "openai-chat"), help="openai-chat means --endpoint chat.")
    add(
        "--header",
        metavar="NAME=VALUE",
        type=pair,
        nargs="+",
        action="extend",
        default=[],
        help="Sent with each request.",
    )
    add("--api-key", metavar="KEY", help="Sent as a bearer token.", said=f"${API_KEY_VARIABLE}")
    add("--insecure", action="store_true", help="Do not verify the server's certificate.")
    add("--timeout", metavar="TIME", type=duration, default=600.0, help="Of one request.", said="600s")


def add_workload_options(parser: ArgumentParser) -> None:
    add = _adder(parser, "Requests")
    add(
        "--dataset-name",
        choices=DATASETS,
        help="random: words, of the lengths given below; conversation: words, as long as people's conversations are;"
        " custom: a JSONL file with a prompt or messages a line; sharegpt: a JSON file of that shape.",
        said="random, or custom where there is a --dataset-path",
    )
    add("--dataset-path", metavar="FILE", type=Path, help="Of custom and sharegpt.")
    add(
        "--random-input-len",
        "--input-len",
        metavar="N",
        dest="input_len",
        type=positive,
        help="Tokens of a random prompt, as the server counts them: with its first token, and a chat's template.",
        said="1024",
    )
    add(
        "--random-output-len",
        "--output-len",
        metavar="N",
        dest="output_len",
        type=positive,
        help="Tokens of an answer.",
        said="128, or what the file says",
    )
    add(
        "--random-range-ratio",
        metavar="R",
        type=share,
        default=0.0,
        help="Random lengths are from 1-R to 1+R times the given ones.",
        said="0",
    )
    add(
        "--random-prefix-len", metavar="N", type=natural, default=0, help="Tokens that all prompts begin with, besides."
    )
    add("--token-ids", action="store_true", help="Send random prompts as token ids, not as text.")
    add("--ignore-eos", action=BooleanOptionalAction, default=False, help="Answers are as long as asked.", said="off")
    add("--temperature", metavar="T", type=temperature, default=0.0, help="Above 0, each request has a seed.", said="0")
    add("--extra-body", metavar="JSON", type=json_object, default={}, help="More fields for each request.")
    add("--stream", action=BooleanOptionalAction, default=True, help="Without it there is no TTFT.", said="on")
    add("--cancel-fraction", metavar="F", type=share, default=0.0, help="Hang up on so many, midway.", said="0")
    add("--seed", metavar="N", type=natural, default=0, help="The same seed makes the same requests.", said="0")


def add_load_options(parser: ArgumentParser) -> None:
    add = _adder(parser, "Load")
    add(
        "--concurrency",
        "--max-concurrency",
        metavar="N,...",
        type=several(positive),
        help="Requests at a time; several make a load each. With a rate: at most so many.",
        said=f"{DEFAULT_CONCURRENCY}, or unlimited with a rate",
    )
    add(
        "--request-rate",
        metavar="R,...",
        type=several(positive_number),
        help="Requests a second, whatever the answers do (an open loop); several make a load each.",
        said="inf: each request follows an answer (a closed loop)",
    )
    add(
        "--burstiness",
        metavar="B",
        type=positive_number,
        default=1.0,
        help="Of the rate: 1 is a Poisson process, less comes in bursts, more is more even, inf is a constant rate.",
        said="1",
    )
    add("--ramp-up-strategy", choices=("linear", "exponential"), help="The rate changes from one to another.")
    add("--ramp-up-start-rps", metavar="R", type=positive_number, help="The ramp's first rate.")
    add("--ramp-up-end-rps", metavar="R", type=positive_number, help="The ramp's last rate.")
    add("--num-prompts", metavar="N", type=positive, help="Requests of each load.", said="as the duration allows")
    add("--duration", metavar="TIME", type=duration, help="Of each load's sending.", said="60s without --num-prompts")
    add("--warmup", "--num-warmups", metavar="N", type=natural, default=0, help="Requests that do not count.", said="0")


def add_figure_options(parser: ArgumentParser) -> None:
    add = _adder(parser, "Figures")
    add(
        "--goodput",
        metavar="METRIC:MS",
        type=limit,
        nargs="+",
        action="extend",
        default=[],
        help="Limits on ttft, tpot and e2el; requests that meet all of them count.",
    )
    add(
        "--metric-percentiles",
        metavar="P,...",
        type=several(percent),
        default=(50.0, 90.0, 95.0, 99.0),
        help="Of each latency.",
        said="50,90,95,99",
    )
    add("--label", metavar="TEXT", help="Stands in the result.")
    add("--metadata", metavar="NAME=VALUE", type=pair, nargs="+", action="extend", default=[], help="As --label.")


def read_loads(options: Namespace, model: str) -> list[RunSettings]:
    """One load for each concurrency and each rate. Raises BadWorkload for options that do not go together."""
    if options.cancel_fraction and not options.stream:
        raise BadWorkload("--cancel-fraction hangs up in the middle of a stream: it does not go with --no-stream")
    rates = options.request_rate or (math.inf,)
    is_open = options.ramp_up_strategy is not None or any(math.isfinite(rate) for rate in rates)
    concurrencies = options.concurrency or ((None,) if is_open else (DEFAULT_CONCURRENCY,))
    ramp_from, ramp_to = _ramp(options)
    path = options.endpoint if (options.endpoint or "").startswith("/") else None
    has_end = options.num_prompts is not None or options.duration is not None
    return [
        RunSettings(
            base_url=base_url(options),
            model=model,
            endpoint=endpoint(options),
            path=path,
            is_streamed=options.stream,
            concurrency=concurrency,
            request_rate=rate,
            burstiness=options.burstiness,
            ramp=options.ramp_up_strategy,
            ramp_from=ramp_from,
            ramp_to=ramp_to,
            num_prompts=options.num_prompts,
            duration=options.duration if has_end else DEFAULT_DURATION,
            warmup=options.warmup,
            seed=options.seed,
            input_len=options.input_len,
            output_len=options.output_len,
            temperature=options.temperature,
            ignore_eos=options.ignore_eos,
            extra_body=options.extra_body,
            headers=tuple(options.header),
            api_key=options.api_key or os.environ.get(API_KEY_VARIABLE) or None,
            timeout=options.timeout,
            is_verified=not options.insecure,
            goodput=dict(options.goodput),
            percentiles=options.metric_percentiles,
            label=options.label,
            metadata=dict(options.metadata),
        )
        for concurrency, rate in product(concurrencies, rates)
    ]


def base_url(options: Namespace) -> str:
    if options.base_url is not None:
        return str(options.base_url)
    return f"http://{options.host or '127.0.0.1'}:{options.port or DEFAULT_PORT}"


def endpoint(options: Namespace) -> Endpoint:
    """Raises BadWorkload."""
    named = options.endpoint or ("chat" if options.backend == "openai-chat" else "completions")
    if named == "chat" or named.endswith("/chat/completions"):
        return "chat"
    if named != "completions" and not named.endswith("/completions"):
        raise BadWorkload(f"--endpoint {named} is neither completions nor chat, nor the path of one")
    if options.backend == "openai-chat":
        raise BadWorkload(f"--backend openai-chat and --endpoint {named} contradict each other")
    return "completions"


def _ramp(options: Namespace) -> tuple[float, float]:
    given = (options.ramp_up_start_rps, options.ramp_up_end_rps)
    if options.ramp_up_strategy is None:
        if given != (None, None):
            raise BadWorkload("a ramp needs --ramp-up-strategy")
        return 0.0, 0.0
    if None in given or options.request_rate is not None:
        raise BadWorkload("a ramp needs --ramp-up-start-rps and --ramp-up-end-rps, and no --request-rate")
    return given
