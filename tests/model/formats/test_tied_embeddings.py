from pathlib import Path

import numpy as np
import pytest

from model.formats.checkpoint import WeightTensor
from model.formats.tied_embeddings import EMBEDDING, OUTPUT, resolve_tying


def matrix(*values: float, encoding: str = "F32") -> WeightTensor:
    data = np.array([values], dtype="<f4" if encoding == "F32" else "<f2").view(np.uint8)
    return WeightTensor((1, len(values)), encoding, data, Path("file"), "tensor")


@pytest.mark.parametrize("names", [(EMBEDDING,), (OUTPUT,), (EMBEDDING, OUTPUT)])
def test_one_matrix_stands_for_both(names: tuple[str, ...]) -> None:
    resolved = resolve_tying({name: matrix(1.0, 2.0) for name in names} | {"other": matrix(3.0)})
    assert resolved.tied
    assert resolved.weights.keys() == {EMBEDDING, "other"}
    assert resolved.weights[EMBEDDING].to_float32().tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("output", [matrix(1.0, 2.5), matrix(1.0), matrix(1.0, 2.0, encoding="F16")])
def test_two_that_differ_both_stay(output: WeightTensor) -> None:
    resolved = resolve_tying({EMBEDDING: matrix(1.0, 2.0), OUTPUT: output})
    assert not resolved.tied
    assert resolved.weights[OUTPUT] is output


def test_a_model_without_either_is_left_to_the_check_of_the_checkpoint() -> None:
    assert resolve_tying({}).weights == {}
