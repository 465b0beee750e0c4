"""New weights from disk, on real small models: what may be opened, what is refused, whose tokens come, what is left."""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from app.api.errors import WeightsRefused
from app.engine.detokenizer import Vocabulary
from app.engine.engine import Engine
from app.engine.limits import Limits
from app.engine.request import RequestParams, Submission
from app.main import prepare
from app.settings import ServeSettings
from app.weights import WeightsFolder
from model.backends import build_runner
from model.batch import Runner, SamplingParams
from model.load import load, read_checkpoint
from model.options import LoadOptions
from tests.engine.test_engine import read, tokens
from tests.model.gguf_files import random_weights, small_config, write_gguf
from tests.model.test_load import write_tokenizer

PROMPT = (1, 2, 3, 4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a.gguf and b.gguf inside, and outside.gguf beside it."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        write_gguf(folder / f"{name}.gguf", small_config(), random_weights(small_config(), seed))
    write_gguf(tmp_path / "outside.gguf", small_config(), random_weights(small_config(), 3))
    return folder


def settings_of(root: Path) -> ServeSettings:
    tokenizer = write_tokenizer(root.parent / "tokenizer")
    return ServeSettings(
        model=str(root / "a.gguf"),
        tokenizer=str(tokenizer),
        threads=1,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        weights_root=root,
        log_level="error",
    )


def folder_of(root: Path) -> WeightsFolder:
    options = settings_of(root).load_options()
    loaded = load(options)
    return WeightsFolder(root, loaded.config, loaded.runner.info, options)


async def answer(engine: Engine, num_tokens: int = 12) -> Sequence[int | None]:
    params = RequestParams(num_tokens, SamplingParams(temperature=0.0))
    return tokens(await read(engine.submit([Submission("x", PROMPT, params)])))


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


def engine_of(runner: Runner) -> Engine:
    return Engine(runner, Vocabulary((b"x",) * runner.info.vocab_size, frozenset()), Limits(4, 64))


def served_engine(root: Path) -> Engine:
    """As `slotwise serve` has it."""
    settings = settings_of(root)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return prepare(settings, load(settings.load_options()), sock).engine


def test_a_path_is_one_inside_the_folder_however_it_is_said(root: Path) -> None:
    (root / "link.gguf").symlink_to("b.gguf")
    folder, model = folder_of(root), root / "b.gguf"
    for name in ("b.gguf", "./b.gguf", "link.gguf", f"../{root.name}/b.gguf", str(model)):
        assert folder.find(name) == model.resolve()
    assert folder.find(".") == root.resolve()


def test_nothing_outside_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = root.parent / "outside.gguf"
    (root / "file.gguf").symlink_to(outside)
    (root / "folder").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    (root / "model").mkdir()
    (root / "model" / "model.gguf").symlink_to(outside)
    folder = folder_of(root)
    monkeypatch.setattr("app.weights.load_weights", lambda *_: pytest.fail("it is opened"))
    names = ("../outside.gguf", str(outside), "file.gguf", "folder/outside.gguf", "folder", "loop", "model", "..", "/")
    for name in (*names, "a\0b", "x" * 5000, "none", "/etc/passwd", f"{root}-2"):
        with pytest.raises(WeightsRefused, match="there is no such model in the folder"):
            folder.load(name)


def test_what_is_no_model_like_the_served_one_is_refused(root: Path) -> None:
    (root / "empty.gguf").touch()
    (root / "text.gguf").write_text("not a model")
    whole = (root / "b.gguf").read_bytes()
    (root / "short.gguf").write_bytes(whole[: len(whole) // 2])
    longer = small_config(num_layers=3)
    write_gguf(root / "deeper.gguf", longer, random_weights(longer, 1))
    weights = random_weights(small_config(), 4)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = np.nan
    write_gguf(root / "nan.gguf", small_config(), weights)
    (root / "nothing").mkdir()
    folder = folder_of(root)
    for name, problem in (
        ("empty.gguf", "neither a GGUF file"),
        ("text.gguf", "neither a GGUF file"),
        ("short.gguf", "."),
        ("deeper.gguf", "num_layers is 3, but 2 in the model that is served"),
        ("nan.gguf", "not finite"),
        ("nothing", "neither config.json nor a GGUF file"),
    ):
        with pytest.raises(WeightsRefused, match=problem):
            folder.load(name)


async def test_the_tokens_are_those_of_a_server_with_the_new_weights_alone(root: Path) -> None:
    folder = folder_of(root)
    expected = {}
    for name in ("a.gguf", "b.gguf"):
        async with running(engine_of(folder.load(name).runner)) as engine:
            expected[name] = await answer(engine)
    assert expected["a.gguf"] != expected["b.gguf"]
    async with running(served_engine(root)) as engine:
        first = weakref.ref(engine._runner)
        for name in ("a.gguf", "b.gguf", "a.gguf", "b.gguf"):
            new = await asyncio.to_thread(folder.load, name)
            begun = asyncio.gather(*(answer(engine, 12) for _ in range(3)))
            await asyncio.sleep(0)
            await engine.swaps.swap(new.runner)
            assert await answer(engine) == expected[name]
            assert all(one in expected.values() for one in await begun)
        gc.collect()
        assert first() is None, "something besides the engine keeps the first model in memory"


async def test_twenty_swaps_take_no_memory(root: Path) -> None:
    config = small_config(vocab_size=20_000, hidden_size=256)
    for name, seed in (("a", 1), ("b", 2)):
        write_gguf(root / f"{name}.gguf", config, random_weights(config, seed))
    options = LoadOptions(num_threads=1, max_num_seqs=4, max_num_batched_tokens=64)
    first = build_runner(read_checkpoint(root / "a.gguf"), options)
    folder = WeightsFolder(root, config, first.info, options)
    levels = []
    async with running(engine_of(first)) as engine:
        for number in range(24):
            await engine.swaps.swap((await asyncio.to_thread(folder.load, "ba"[number % 2] + ".gguf")).runner)
            await answer(engine)
            assert (await engine.slots()).blocks_used == 0
            levels.append(psutil.Process().memory_info().rss)
    model_bytes = (root / "a.gguf").stat().st_size
    assert levels[-1] - levels[3] < model_bytes, "not even one model more after twenty swaps"
