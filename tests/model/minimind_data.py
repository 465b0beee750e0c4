"""Where MiniMind's golden files lie, and the tests' reason to skip where they do not."""

from pathlib import Path

import pytest

MINIMIND = Path(__file__).parents[3] / "shared" / "data" / "minimind"
GOLDEN = MINIMIND / "golden"
EXPORTS = MINIMIND / "hf"

needs_minimind = pytest.mark.skipif(
    not MINIMIND.is_dir(), reason="needs MiniMind's golden files (../shared/data/minimind)"
)
