"""Every era's weights with every era's tokenizer: which pairs are taken, and where a text ends if no file says it."""

import shutil
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from model import load as loading
from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint
from model.load import load
from model.options import LoadOptions
from model.tokenizer import Tokenizer
from model.tokenizer_match import END_OF_TEXT, Vocabulary, check_match, ends_of_text, vocabulary_of
from tests.model.hf_models import edit_json
from tests.model.minimind_data import EXPORTS, GOLDEN, MINIMIND, needs_minimind
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint

TOKENIZERS = MINIMIND / "tokenizers"
RIGHT = {"v1": "v1", "v2-early": "v1", "v2": "v2", "v3": "v3"}  # era → its tokenizer
ORIGINS = {"v1": "MiniMind-v1", "v2-early": "MiniMind2 of early 2025", "v2": "MiniMind2", "v3": "MiniMind-3"}
NAMES = [era + moe for era, moe in product(RIGHT, ("", "-moe"))]


@pytest.fixture
def no_runner(monkeypatch) -> None:
    monkeypatch.setattr(loading, "build_runner", lambda *_: None)


@cache
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_folder(TOKENIZERS / name)


def checkpoint(config: ModelConfig = QWEN3, origin: str = "", num_tokens: int = 6400) -> Checkpoint:
    return replace(random_checkpoint(replace(config, vocab_size=num_tokens, num_layers=1, moe=None), 1), origin=origin)


@needs_minimind
@pytest.mark.parametrize("given", ["v1", "v2", "v3"])
@pytest.mark.parametrize("name", NAMES)
def test_a_golden_checkpoint_takes_its_own_era_s_tokenizer_alone(name, given, no_runner):
    (file,) = [path for path in (GOLDEN / name).glob("*.pth") if "resume" not in path.name]
    options = LoadOptions(model=str(file), tokenizer=str(TOKENIZERS / given))

    if given == RIGHT[name.removesuffix("-moe")]:
        assert load(options).eos_token_ids == {END_OF_TEXT}
    else:
        with pytest.raises(ModelError, match=r"\.pth: these are weights of MiniMind.* --allow-tokenizer-mismatch"):
            load(options)
        assert load(replace(options, allow_tokenizer_mismatch=True)).eos_token_ids == {END_OF_TEXT}


@needs_minimind
@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("given", ["v1", "v2", "v3"])
@pytest.mark.parametrize("era", ORIGINS)
def test_an_origin_goes_with_one_tokenizer(era, given, is_named):
    weights = checkpoint(origin=ORIGINS[era])

    if given == RIGHT[era]:
        check_match(weights, tokenizer(given), is_named=is_named)
    else:
        with pytest.raises(ModelError, match=f"weights of {ORIGINS[era]}, which go with another tokenizer"):
            check_match(weights, tokenizer(given), is_named=is_named)


@needs_minimind
def test_the_reason_names_both_tokenizers():
    with pytest.raises(ModelError) as raised:
        check_match(checkpoint(origin="MiniMind-3"), tokenizer("v1"), is_named=True)

    assert raised.value.problem == (
        "these are weights of MiniMind-3, which go with another tokenizer: that of MiniMind-3. The one given is that "
        "of MiniMind-v1 and of MiniMind2 of early 2025 (its first tokens: <unk>, <s>, </s>); its tokens and prompts "
        "are not those that the model was taught. --tokenizer FOLDER names the right one; --allow-tokenizer-mismatch "
        "takes this one all the same."
    )


EXPORTED = [(LLAMA, {"v1", "v2"}), (QWEN3, {"v3"}), (QWEN3_MOE, {"v3"}), (QWEN2, {"v1", "v2", "v3"})]


@needs_minimind
@pytest.mark.parametrize("origin", ["", "GGUF"])
@pytest.mark.parametrize("given", ["v1", "v2", "v3"])
@pytest.mark.parametrize(("config", "right"), EXPORTED, ids=lambda value: getattr(value, "architecture", ""))
def test_of_an_export_the_architecture_tells_where_another_tokenizer_is_named(config, right, given, origin):
    check_match(checkpoint(config, origin), tokenizer(given), is_named=False)
    check_match(checkpoint(config, num_tokens=6464), tokenizer(given), is_named=True)
    if given in right:
        check_match(checkpoint(config, origin), tokenizer(given), is_named=True)
    else:
        with pytest.raises(ModelError, match=f"weights of a {config.architecture} model with 6400 tokens"):
            check_match(checkpoint(config, origin), tokenizer(given), is_named=True)


@needs_minimind
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("v2", "v3"), ("v3", "v2"), ("v3", "v1"), ("v3-moe-split", "v2"), ("v3-moe-fused", "v1")],
)
def test_an_export_is_refused_with_another_era_s_tokenizer(name, wrong, no_runner):
    options = LoadOptions(model=str(EXPORTS / name), tokenizer=str(TOKENIZERS / wrong))

    with pytest.raises(ModelError, match=f"{name}: these are weights of "):
        load(options)
    assert load(replace(options, allow_tokenizer_mismatch=True)).eos_token_ids == {END_OF_TEXT}
    assert load(replace(options, tokenizer=str(TOKENIZERS / name[:2]))).eos_token_ids == {END_OF_TEXT}


@needs_minimind
def test_an_export_is_believed_with_the_tokenizer_beside_it(tmp_path, no_runner):
    shutil.copytree(EXPORTS / "v2", tmp_path, dirs_exist_ok=True)
    shutil.copytree(TOKENIZERS / "v3", tmp_path, dirs_exist_ok=True)

    assert load(LoadOptions(model=str(tmp_path))).tokenizer.backend.token_to_id("<think>") == 25


def of_its_own(folder: Path) -> Tokenizer:
    """6400 tokens, one of them of nobody else's."""
    source = (TOKENIZERS / "v1" / "tokenizer.json").read_text("utf-8").replace('"<unk>"', '"<none>"')
    Backend.from_str(source).save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder)


@needs_minimind
def test_a_vocabulary_that_is_nobody_s_matches_all(tmp_path):
    own = of_its_own(tmp_path)

    assert own.vocab_size == 6400
    assert vocabulary_of(own) is None
    for origin in ORIGINS.values():
        check_match(checkpoint(origin=origin), own, is_named=True)


@needs_minimind
def test_each_folder_has_the_vocabulary_of_its_era():
    for vocabulary in Vocabulary:
        assert vocabulary_of(tokenizer(vocabulary.name.lower())) is vocabulary
    assert vocabulary_of(Tokenizer.from_folder(EXPORTS / "v3")) is Vocabulary.V3


@needs_minimind
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_where_no_file_says_so_a_text_ends_with_the_token_that_ends_it_in_every_era(name, tmp_path):
    shutil.copy(TOKENIZERS / name / "tokenizer.json", tmp_path)
    bare = Tokenizer.from_folder(tmp_path)

    assert bare.eos_token_ids == frozenset()
    assert ends_of_text(checkpoint(), bare) == {END_OF_TEXT}


@needs_minimind
def test_what_a_file_says_of_the_end_of_text_holds(tmp_path):
    shutil.copytree(TOKENIZERS / "v3", tmp_path, dirs_exist_ok=True)
    edit_json(tmp_path / "tokenizer_config.json", ["chat_template"], eos_token="<|endoftext|>")
    weights = checkpoint(origin="MiniMind-3")

    assert ends_of_text(weights, Tokenizer.from_folder(tmp_path)) == {0}
    assert ends_of_text(replace(weights, eos_token_ids=frozenset({7})), tokenizer("v3")) == {2, 7}


@needs_minimind
def test_only_minimind_s_weights_or_vocabulary_end_where_minimind_s_do(tmp_path):
    own = of_its_own(tmp_path)

    assert ends_of_text(checkpoint(), own) == ends_of_text(checkpoint(origin="GGUF"), own) == frozenset()
    assert ends_of_text(checkpoint(origin="MiniMind-3"), own) == {END_OF_TEXT}
