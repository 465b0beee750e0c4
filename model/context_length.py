"""How many tokens a request may have, prompt and answer together."""

from model.errors import ModelError
from model.formats.checkpoint import Checkpoint


def choose_max_model_len(asked: int | None, checkpoint: Checkpoint) -> int:
    """Raises ModelError for more than the model was made for; None: as many as that."""
    most = checkpoint.config.max_positions
    if asked is not None and asked > most:
        raise ModelError(checkpoint.path, f"the model was made for {most} positions; max_model_len {asked} is more.")
    return most if asked is None else asked
