"""MiniMind's rotary scaling by flag: what it sets, and the models that it is not for."""

from dataclasses import replace

import pytest

from model.config import ModelConfig, RopeConfig
from model.errors import ModelError
from model.formats.minimind_yarn import scaled, with_yarn
from tests.model.random_checkpoint import QWEN3, random_checkpoint

PLAIN = replace(QWEN3, max_positions=32768)


def test_it_is_minimind_s_yarn_with_the_model_s_own_theta() -> None:
    rope = scaled(random_checkpoint(PLAIN, 1)).config.rope
    assert rope == RopeConfig(
        theta=1e6,
        kind="yarn",
        factor=16.0,
        original_max_positions=2048,
        beta_fast=32.0,
        beta_slow=1.0,
        attention_factor=1.0,
    )


def test_nothing_else_changes_and_twice_is_once() -> None:
    checkpoint = random_checkpoint(PLAIN, 1)
    once = scaled(checkpoint)
    assert replace(once, config=checkpoint.config) == checkpoint
    assert scaled(once) == once


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(PLAIN, rope=RopeConfig(theta=1e6, kind="linear", factor=2)),
            "its files scale rotary positions already",
        ),
        (replace(PLAIN, rope=replace(with_yarn(PLAIN.rope), factor=4.0)), "its files scale rotary positions already"),
        (replace(PLAIN, rope=RopeConfig(frequency_divisors=(1.0,) * 16)), "its files scale rotary positions already"),
        (replace(PLAIN, max_positions=512), "models of 32768 positions, .* this one has 512"),
    ],
)
def test_other_models_are_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        scaled(random_checkpoint(config, 1))
