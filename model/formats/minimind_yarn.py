"""The rotary scaling that MiniMind's scripts switch on with `--inference_rope_scaling`: an option at run time, which no
file of weights shows."""

from dataclasses import replace

from model.config import RopeConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint

_MAX_POSITIONS = 32768  # of the models that have the switch, scaled or not


def with_yarn(rope: RopeConfig) -> RopeConfig:
    """YaRN as model_minimind.py has it since December 2025: by 16 from 2048 positions, no change of temperature. (Its
    help text says "4×", which was another formula, of October and November 2025.)"""
    yarn = RopeConfig(kind="yarn", factor=16.0, original_max_positions=2048, attention_factor=1.0)
    return replace(yarn, theta=rope.theta)


def scaled(checkpoint: Checkpoint) -> Checkpoint:
    """The model with that scaling, be it MiniMind's own file or an export. Raises ModelError for one that has another
    scaling already, or another context than MiniMind2 and MiniMind-3 have, for which the numbers are made."""
    config = checkpoint.config
    yarn = with_yarn(config.rope)
    if config.rope not in (RopeConfig(theta=config.rope.theta), yarn):
        raise ModelError(checkpoint.path, "--rope-scaling cannot be used: its files scale rotary positions already.")
    if config.max_positions != _MAX_POSITIONS:
        raise ModelError(
            checkpoint.path,
            f"--rope-scaling minimind-yarn is for models of {_MAX_POSITIONS} positions, which MiniMind2 and MiniMind-3 "
            f"are; this one has {config.max_positions}.",
        )
    return replace(checkpoint, config=replace(config, rope=yarn))
