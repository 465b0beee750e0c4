"""What `slotwise show` prints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app import cli
from app.show import rows, show, to_json
from model.adapters_beside import AdapterBeside
from model.config import MoeConfig, RopeConfig
from model.description import Description, describe
from model.formats.checkpoint import GenerationDefaults
from model.options import LoadOptions
from tests.model.gguf_files import small_config, write_gguf
from tests.model.minimind_data import GOLDEN, MINIMIND, needs_minimind


@pytest.fixture
def description(tmp_path: Path) -> Description:
    """Of a small file without a tokenizer."""
    return describe(LoadOptions(model=str(write_gguf(tmp_path / "small.gguf", small_config(), encoding="Q8_0"))))


def test_each_fact_has_a_row(description):
    shown = dict(rows(description))

    assert shown["format"] == "GGUF llama"
    assert shown["architecture"] == "llama; LlamaForCausalLM in transformers"
    assert shown["parameters"] == f"{description.num_parameters:,}"
    assert "Q8_0" in shown["weights"]
    assert shown["rotation"].startswith("theta ")
    assert shown["tokenizer"].startswith("none: ")
    assert (shown["chat template"], shown["sampling"]) == ("none", "nothing recommended")
    assert "adapter" not in shown


def test_what_is_there_only_sometimes(description):
    config = replace(
        description.config,
        moe=MoeConfig(4, 2, 32, norm_topk_prob=True, num_shared_experts=1),
        rope=RopeConfig(theta=1e6, kind="yarn", factor=16.0, original_max_positions=2048),
    )
    adapters = (AdapterBeside(Path("a.pth"), 16), AdapterBeside(Path("b.pth"), None, "is damaged."))
    shown = list(
        rows(replace(description, config=config, adapters=adapters, generation=GenerationDefaults(temperature=0.6)))
    )

    assert ("experts", "4 of feed-forward 32, 2 for each token, and 1 shared") in shown
    assert ("rotation", "theta 1,000,000, yarn scaling by 16 from 2,048 positions") in shown
    assert ("sampling", "temperature 0.6") in shown
    assert shown[-2:] == [("adapter", "a.pth: fits, rank 16"), ("adapter", "b.pth: does not fit: is damaged.")]


@needs_minimind
def test_a_minimind_checkpoint_on_the_command_line(capsys):
    model, tokenizer = GOLDEN / "v3" / "full_sft_64.pth", MINIMIND / "tokenizers" / "v3"

    assert cli.main(["show", str(model), "--tokenizer", str(tokenizer)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("format")][0].split() == ["format", "MiniMind-3"]
    assert any("tools, a switch for thinking" in line for line in lines)


def test_json_has_the_same_facts(description, capsys):
    show(LoadOptions(model=str(description.path)), as_json=True)
    said = json.loads(capsys.readouterr().out)

    assert said == json.loads(to_json(description))
    assert said["config"]["num_layers"] == description.config.num_layers
    assert said["path"] == str(description.path)
    assert said["kv_cache"]["bytes_per_token"] == description.kv_cache.bytes_per_token


def test_what_a_terminal_would_obey_is_escaped(description, tmp_path, capsys):
    path = tmp_path / "red\x1b[31m.gguf"
    description.path.rename(path)
    show(LoadOptions(model=str(path)), as_json=False)

    assert "\x1b" not in capsys.readouterr().out


def test_a_model_that_is_not_there_is_one_line_and_status_2(capsys):
    assert cli.main(["show", "nowhere.gguf"]) == 2
    assert capsys.readouterr().err == "slotwise show: error: nowhere.gguf: there is no such file or folder.\n"
