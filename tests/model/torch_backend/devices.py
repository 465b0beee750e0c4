"""The devices that a test of this backend runs on."""

import pytest
import torch

ON_EVERY_DEVICE = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
            ],
        ),
    ],
)
