"""The composition root: settings → model → engine → HTTP, and the order in which they start and end.

A start that cannot succeed fails before anybody is let in. No rule of scheduling, HTTP or loading is here.
"""

import gc
import hashlib
import logging
import os
import socket
import sys
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial

from app.api.access import Access
from app.api.app import create_app
from app.api.metrics import Metrics
from app.api.rollouts import LoadWeights
from app.api.served import ServedAdapter, ServedModel
from app.banner import Banner
from app.engine.detokenizer import Vocabulary
from app.engine.engine import Engine
from app.engine.grammars.constraints import GrammarCompiler
from app.engine.limits import Limits
from app.engine.watchdog import Watchdog
from app.listener import open_port, take_address
from app.server import Server
from app.settings import ServeSettings
from app.signals import ending_at_once
from app.version import installed_version
from app.weights import WeightsFolder
from model.batch import SamplingParams
from model.errors import ModelError
from model.load import LoadedModel, load, locate
from model.self_test import SelfTest, warm_up

logger = logging.getLogger(__name__)

# The engine thread lets go of the interpreter in every torch operation, and must wait to have it back while the event
# loop is busy: for 5 ms as Python comes. A product of 2.5 ms beside a busy thread took 6.8 ms so, and 5.5 ms with this.
SWITCH_INTERVAL_SECONDS = 0.0005

# With a step that does not return: so long at least, and so many times the longest that was seen at the start.
PATIENCE_SECONDS = 8.0
PATIENCE_STEPS = 10


def serve(settings: ServeSettings) -> int:
    """Serves until a signal comes (status 0) or the engine dies (1). Raises AddressError or ModelError if it cannot."""
    configure_logging(settings.log_level)
    with closing(take_address(settings.host, settings.port)) as sock:
        options = settings.load_options()
        path = locate(options)  # may download: an end in the middle of that has something to clean up
        logger.info("loading %s", path)
        with ending_at_once("slotwise serve"):
            serving = prepare(settings, load(options), sock)
        gc.collect()
        gc.freeze()  # what a model is made of stays: no collection in the middle of a step need look at it again
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else short texts wait behind long ones, in a pool
        return run(serving, sock)


def run_self_test(settings: ServeSettings, loaded: LoadedModel) -> SelfTest:
    """Warms the model up and tells of what the self-test found. Raises ModelError for a model that does not work."""
    result = warm_up(loaded.path, loaded.runner, settings.max_num_seqs, settings.max_num_batched_tokens)
    promises_bits = loaded.runner.info.backend == "native"
    if result.is_batch_invariant is False:
        level = logging.WARNING if promises_bits else logging.INFO
        logger.log(level, "an answer depends on what is computed beside it: %s", result.remark)
    elif result.remark:
        logger.info("%s", result.remark)
    return result


@dataclass(frozen=True, slots=True)
class Serving:
    """Everything that stands when a server begins."""

    engine: Engine
    engine_died: threading.Event
    server: Server
    patience_s: float


def prepare(settings: ServeSettings, loaded: LoadedModel, sock: socket.socket) -> Serving:
    """Builds engine, API and server around the model. Nothing but the engine keeps its runner: when another takes its
    place, its memory is to be free. Raises ModelError."""
    self_test = run_self_test(settings, loaded)
    engine_died = threading.Event()
    metrics = Metrics()
    engine = Engine(
        loaded.runner,
        vocabulary_of(loaded),
        limits_of(settings),
        observe=metrics.observe,
        on_death=engine_died.set,
    )
    served = describe(settings, loaded, self_test)
    app = create_app(served, engine, metrics, access_of(settings), load_weights=weights_of(settings, loaded))
    banner = make_banner(settings, loaded, served, sock)
    drain = partial(engine.drain, settings.drain_timeout)
    server = Server(app, engine_died, on_ready=lambda: show(banner), drain=drain, stop=engine.stop)
    patience_s = max(PATIENCE_SECONDS, PATIENCE_STEPS * self_test.longest_step_s)
    return Serving(engine, engine_died, server, patience_s)


def run(serving: Serving, sock: socket.socket) -> int:
    """Lets clients in, until the end. Raises AddressError."""
    open_port(sock)
    with Watchdog(serving.engine.progress, serving.engine.give_up, serving.patience_s):
        serving.server.run([sock])
    return 1 if serving.engine_died.is_set() else 0


def weights_of(settings: ServeSettings, loaded: LoadedModel) -> LoadWeights | None:
    """What may take the place of the model's weights; None: nothing."""
    if settings.weights_root is None:
        return None
    return WeightsFolder(settings.weights_root, loaded.config, loaded.runner.info, settings.load_options()).load


def limits_of(settings: ServeSettings) -> Limits:
    return Limits(
        settings.max_num_seqs,
        settings.max_num_batched_tokens,
        settings.max_queued_requests,
        settings.max_queued_tokens,
        settings.request_timeout,
    )


def describe(settings: ServeSettings, loaded: LoadedModel, self_test: SelfTest) -> ServedModel:
    """The model as the API sees it. Raises ModelError where an adapter has its name."""
    names = settings.served_model_name or (loaded.name,)
    if taken := next((adapter.name for adapter in loaded.adapters if adapter.name in names), None):
        raise ModelError(loaded.path, f"is called {taken}, like one of its adapters (--lora); name it another way.")
    recommended = {name: value for name, value in asdict(loaded.generation).items() if value is not None}
    return ServedModel(
        names=names,
        root=str(loaded.path),
        created=int(time.time()),
        max_model_len=loaded.runner.info.max_model_len,
        tokenizer=loaded.tokenizer,
        chat_template=loaded.chat_template,
        eos_token_ids=loaded.eos_token_ids,
        grammars=GrammarCompiler(vocabulary_of(loaded), loaded.eos_token_ids),
        fingerprint=fingerprint(loaded, self_test),
        is_batch_invariant=self_test.is_batch_invariant,
        invariance_remark=self_test.remark,
        defaults=SamplingParams(**recommended),
        adapters=tuple(ServedAdapter(adapter.name, adapter.path) for adapter in loaded.adapters),
    )


def access_of(settings: ServeSettings) -> Access:
    keys = tuple((named.owner or "", named.key.get_secret_value()) for named in settings.keys)
    return Access(
        keys,
        settings.allowed_origins,
        settings.max_body_size,
        max_requests_per_minute=settings.max_requests_per_minute,
        max_tokens_per_minute=settings.max_tokens_per_minute,
    )


def vocabulary_of(loaded: LoadedModel) -> Vocabulary:
    return Vocabulary(loaded.tokenizer.token_bytes, loaded.tokenizer.special_token_ids)


def fingerprint(loaded: LoadedModel, self_test: SelfTest) -> str:
    """The same as long as the model, the program and what it runs on are the same; not a check of the weights. How many
    threads there are changes sums but on the native backend, the instruction set on both."""
    info = loaded.runner.info
    num_threads = None if info.backend == "native" else info.num_threads
    parts = (
        *(loaded.name, loaded.architecture, loaded.num_parameters, installed_version()),
        *(info.backend, info.device, info.dtype, info.kv_dtype, info.vocab_size),
        *(info.instruction_set, num_threads, self_test.is_batch_invariant is not False),
        *(loaded.merged, *loaded.adapters),
    )
    return "fp_" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


def make_banner(settings: ServeSettings, loaded: LoadedModel, served: ServedModel, sock: socket.socket) -> Banner:
    host, port = sock.getsockname()[:2]
    return Banner(
        version=installed_version(),
        model=served.name,
        architecture=loaded.architecture,
        num_parameters=loaded.num_parameters,
        path=served.root,
        info=loaded.runner.info,
        num_slots=settings.max_num_seqs,
        address=(host, port),
        needs_key=bool(settings.keys),
        can_chat=served.chat_template is not None,
    )


def show(banner: Banner) -> None:
    """On standard output, where a pipe or a log has it at once."""
    sys.stdout.write(f"{banner}\n")
    sys.stdout.flush()


def configure_logging(level: str) -> None:
    """One line for each event, on standard error. The libraries' own accounts, uvicorn's of each start and end among
    them, are for --log-level debug; warnings of theirs are always told, but not uvicorn's: it has one for each request
    that is no HTTP, and anybody can send as many as he likes."""
    chosen = logging.getLevelNamesMapping()[level.upper()]
    theirs = chosen if chosen == logging.DEBUG else max(chosen, logging.WARNING)
    uvicorns = chosen if chosen == logging.DEBUG else max(chosen, logging.ERROR)
    logging.basicConfig(level=theirs, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name, its_level in (("app", chosen), ("model", chosen), ("uvicorn.error", uvicorns)):
        logging.getLogger(name).setLevel(its_level)
