"""Who computes: what was asked for, what is there, and what each backend can."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model import backends
from model.backends import build_runner, has_gpu
from model.errors import ModelError
from model.native.library import NativeUnavailable
from model.options import LoadOptions
from model.torch_backend import options as torch_options
from model.torch_backend import runner as torch_runner
from tests.model.gguf_files import small_config, write_gguf
from tests.model.native.library_here import needs_library
from tests.model.random_checkpoint import LLAMA, random_checkpoint

ROOT = Path(__file__).parents[2]
CHECKPOINT = random_checkpoint(LLAMA, 0)


@pytest.fixture(autouse=True)
def builders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner is only its backend's name, and there is no GPU."""
    monkeypatch.setattr(backends, "_build_native", lambda checkpoint, options, adapters: "native")
    monkeypatch.setattr(torch_runner, "TorchRunner", lambda checkpoint, options, adapters: "torch")
    monkeypatch.setattr(backends, "GPU_DRIVERS", ())


def chosen(**options: Any) -> Any:
    return build_runner(CHECKPOINT, LoadOptions(**options))


def refuse(reason: str) -> Callable[..., Any]:
    def build(*_arguments: object) -> Any:
        raise NativeUnavailable(reason)

    return build


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_build_native", refuse("its library was not built"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_gpu", lambda: True)


@pytest.mark.parametrize(
    ("backend", "device", "expected"),
    [
        ("auto", "auto", "native"),
        ("auto", "cpu", "native"),
        ("auto", "cuda", "torch"),
        ("native", "auto", "native"),
        ("native", "cpu", "native"),
        ("torch", "auto", "torch"),
        ("torch", "cpu", "torch"),
        ("torch", "cuda", "torch"),
    ],
)
def test_the_backend_that_is_asked_for_or_the_one_for_the_device(backend: str, device: str, expected: str) -> None:
    assert chosen(backend=backend, device=device) == expected


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_torchs_unless_something_else_is_asked_for() -> None:
    assert chosen() == "torch"
    assert chosen(device="cpu") == chosen(backend="native") == "native"


@pytest.mark.usefixtures("no_native")
def test_where_the_native_backend_cannot_torch_does_and_one_line_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert chosen() == "torch"
    assert caplog.messages == [
        "random-llama: torch computes, for the native backend cannot serve it: its library was not built"
    ]


@pytest.mark.usefixtures("no_native")
def test_who_asks_for_the_native_backend_gets_no_other() -> None:
    with pytest.raises(ModelError, match="random-llama: the native backend cannot serve it: its library was not built"):
        chosen(backend="native")


def test_the_native_backend_is_not_on_a_gpu() -> None:
    with pytest.raises(ModelError, match="the native backend computes on a CPU; --device cuda needs torch"):
        chosen(backend="native", device="cuda")


@pytest.mark.parametrize("asked", [{"weights": "int8"}, {"weights": "int4"}, {"kv_dtype": "int8"}])
def test_what_only_the_native_backend_has_is_not_left_out_in_silence(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, value),) = asked.items()
    flag = f"--{name.replace('_', '-')} {value} needs the native backend, and torch computes, "
    assert chosen(**asked) == "native"
    with pytest.raises(ModelError, match=flag + "as --backend says"):
        chosen(**asked, backend="torch")
    with pytest.raises(ModelError, match=flag + "for --device cuda"):
        chosen(**asked, device="cuda")
    monkeypatch.setattr(backends, "_build_native", refuse("it is a Tuesday"))
    with pytest.raises(ModelError, match=flag + "for the native backend cannot serve it: it is a Tuesday"):
        chosen(**asked)
    monkeypatch.setattr(backends, "has_gpu", lambda: True)
    with pytest.raises(ModelError, match=flag + "on the GPU"):
        chosen(**asked)


def test_torch_is_asked_for_a_gpu_only_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_options, "has_cuda", lambda: True)
    assert not has_gpu()
    monkeypatch.setattr(backends, "GPU_DRIVERS", (str(tmp_path / "none"), str(tmp_path)))
    assert has_gpu()
    monkeypatch.setattr(torch_options, "has_cuda", lambda: False)
    assert not has_gpu()


@needs_library
def test_a_gguf_file_is_served_natively_without_torch(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", small_config(), encoding="Q4_1")
    program = (
        "import sys; from pathlib import Path; from model.formats import gguf; from model import backends\n"
        "from model.batch import *; from model.options import LoadOptions\n"
        f"backends.GPU_DRIVERS = (); checkpoint = gguf.read(Path({str(path)!r}))\n"
        "runner = backends.build_runner(checkpoint, LoadOptions(num_threads=1, kv_cache_memory=2**20))\n"
        "opened, grown = OpenedSlot(0, 1, 3, SamplingParams(temperature=0.0)), GrownSlot(0, (0,))\n"
        "(result,) = runner.run(Batch(opened=(opened,), grown=(grown,), chunks=(Chunk(0, (1, 2, 3)),))).results\n"
        "assert result.token_id in range(96), result\n"
        "assert runner.info.backend == 'native', runner.info\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
