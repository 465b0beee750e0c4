from dataclasses import replace

import pytest

from model.cpu import num_usable_cores
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.native import options as choosing
from model.native.library import NativeUnavailable
from model.native.options import (
    INT4,
    NativeOptions,
    check_weights,
    choose_encodings,
    choose_kv_type,
    choose_num_threads,
    pins_threads,
)
from model.native.structs import Encoding, KVType
from tests.model.random_checkpoint import QWEN2, random_checkpoint


def encoded(encoding: str) -> Checkpoint:
    """Norms in float32, as files have them; the data of no matter."""
    checkpoint = random_checkpoint(QWEN2, 0)
    weights = {
        name: replace(tensor, encoding=encoding if len(tensor.shape) > 1 else "F32")
        for name, tensor in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=weights)


def matrix(encoding: str, columns: int = 64) -> WeightTensor:
    tensor = encoded(encoding).weights["model.layers.0.mlp.gate_proj.weight"]
    return replace(tensor, shape=(tensor.shape[0], columns))


def encodings(tensor: WeightTensor, is_vocabulary: bool = False, **options: str) -> tuple[Encoding, ...]:
    return choose_encodings(tensor, NativeOptions(**options), is_vocabulary=is_vocabulary)


@pytest.mark.parametrize(
    ("in_file", "kept"),
    [
        ("F32", Encoding.BF16),
        ("F16", Encoding.BF16),
        ("BF16", Encoding.BF16),
        ("Q8_0", Encoding.Q8),
        ("Q4_0", Encoding.Q4_0),
        ("Q4_1", Encoding.Q4_1),
        ("Q6_K", Encoding.Q8),
        ("Q5_1", Encoding.Q8),
    ],
)
def test_auto_is_what_the_file_has_or_what_is_nearest(in_file: str, kept: Encoding) -> None:
    assert encodings(matrix(in_file)) == encodings(matrix(in_file), is_vocabulary=True) == (kept,)


@pytest.mark.parametrize("in_file", ["F32", "BF16", "Q4_1", "Q6_K"])
def test_a_type_that_is_asked_for_is_that_of_every_matrix(in_file: str) -> None:
    assert encodings(matrix(in_file), dtype="float32") == (Encoding.F32,)
    assert encodings(matrix(in_file), dtype="bfloat16", is_vocabulary=True) == (Encoding.BF16,)


def test_float_weights_are_quantised_on_request_the_vocabulary_to_8_bits_at_least() -> None:
    assert encodings(matrix("F16"), weights="int8") == (Encoding.Q8,)
    assert encodings(matrix("F16"), weights="int4") == INT4
    assert encodings(matrix("F16"), weights="int4", is_vocabulary=True) == (Encoding.Q8,)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rows_that_are_not_whole_groups_are_not_quantised(weights: str) -> None:
    assert encodings(matrix("F32", columns=48), weights=weights) == (Encoding.BF16,)
    assert encodings(matrix("F32", columns=48), dtype="float32") == (Encoding.F32,)


def test_what_the_backend_has_not_is_unavailable() -> None:
    with pytest.raises(NativeUnavailable, match="no weights in float16, only in float32 or bfloat16"):
        check_weights(NativeOptions(dtype="float16"), encoded("F16"))
    with pytest.raises(NativeUnavailable, match="no KV cache in float16, only in float32, bfloat16 or int8"):
        choose_kv_type("float16")


def test_a_quantised_file_is_not_quantised_again() -> None:
    check_weights(NativeOptions(weights="int8"), encoded("BF16"))
    check_weights(NativeOptions(), encoded("Q4_1"))
    with pytest.raises(ModelError, match=r"is quantised already \(Q4_1\); --weights int4 is for models in"):
        check_weights(NativeOptions(weights="int4"), encoded("Q4_1"))


def test_weights_and_dtype_together_are_a_contradiction() -> None:
    with pytest.raises(ModelError, match="--weights int8 and --dtype float32 are two answers"):
        check_weights(NativeOptions(weights="int8", dtype="float32"), encoded("F32"))


def test_the_cache_is_in_bfloat16_unless_another_type_is_asked_for() -> None:
    types = [choose_kv_type(name) for name in ("auto", "bfloat16", "float32", "int8")]
    assert types == [KVType.BF16, KVType.BF16, KVType.F32, KVType.INT8]


def test_threads_are_as_many_as_cores_unless_others_are_asked_for() -> None:
    assert choose_num_threads(None) == num_usable_cores()
    assert choose_num_threads(7) == 7


def test_threads_are_pinned_where_each_has_a_core_and_no_core_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "num_allowed_cores", lambda: 4)
    assert [pins_threads(num) for num in (1, 3, 4, 5)] == [False, False, True, False]
