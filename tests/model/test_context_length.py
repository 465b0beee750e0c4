import pytest

from model.context_length import choose_max_model_len
from model.errors import ModelError
from tests.model.random_checkpoint import LLAMA, random_checkpoint


def test_a_request_may_be_as_long_as_was_asked_for_or_as_the_model_was_made_for() -> None:
    checkpoint = random_checkpoint(LLAMA, 0)
    assert choose_max_model_len(100, checkpoint) == 100
    assert choose_max_model_len(LLAMA.max_positions, checkpoint) == LLAMA.max_positions
    assert choose_max_model_len(None, checkpoint) == LLAMA.max_positions


def test_more_positions_than_the_model_has_are_refused() -> None:
    with pytest.raises(ModelError, match=r"random-llama: .*512 positions; max_model_len 513"):
        choose_max_model_len(513, random_checkpoint(LLAMA, 0))
