"""What is written is what the safetensors library reads, whatever the encodings and the size of a slab."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file

from model.errors import ModelError
from model.formats import safetensors_writer
from model.formats.checkpoint import WeightTensor
from model.formats.safetensors_file import read_safetensors
from model.formats.safetensors_writer import write_safetensors


def tensor_of(values: np.ndarray, encoding: str) -> WeightTensor:
    data = quants.quantize(values.astype(np.float32), GGMLQuantizationType[encoding]).view(np.uint8)
    return WeightTensor(values.shape, encoding, data, Path("source"), "its-name")


def random_tensor(shape: tuple[int, ...], encoding: str, seed: int = 0) -> WeightTensor:
    return tensor_of(np.random.default_rng(seed).standard_normal(shape), encoding)


def mixed() -> dict[str, WeightTensor]:
    return {
        "odd": random_tensor((4,), "F16"),
        "wide": random_tensor((7, 33), "F32"),
        "brain": random_tensor((5, 3), "BF16"),
        "quantised": random_tensor((9, 64), "Q8_0"),
        "quantised row": random_tensor((32,), "Q8_0"),
    }


@pytest.mark.parametrize("slab", [1, 100, 1 << 22])
@pytest.mark.parametrize("asked", [None, "F32", "F16", "BF16"])
def test_the_library_reads_the_values(asked, slab, tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "_SLAB_VALUES", slab)
    write_safetensors(tmp_path / "model.safetensors", mixed(), asked)
    read = load_file(tmp_path / "model.safetensors")

    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kept = {"odd": "F16", "wide": "F32", "brain": "BF16", "quantised": "F16", "quantised row": "F16"}
    assert read.keys() == kept.keys()
    for name, tensor in mixed().items():
        expected = torch.from_numpy(tensor.to_float32()).to(types[asked or kept[name]])
        assert read[name].dtype == expected.dtype
        assert torch.equal(read[name], expected), name


def test_floats_keep_their_bits(tmp_path):
    tensors = {name: tensor for name, tensor in mixed().items() if "quantised" not in name}
    write_safetensors(tmp_path / "model.safetensors", tensors)

    for name, tensor in read_safetensors(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(tensor.data, tensors[name].data)


def test_rows_in_another_order_in_memory_are_written_in_theirs(tmp_path):
    tensor = random_tensor((4, 8), "F32")
    turned = WeightTensor(tensor.shape, "F32", tensor.data[::-1], tensor.path, "turned")
    write_safetensors(tmp_path / "model.safetensors", {"turned": turned})

    np.testing.assert_array_equal(read_safetensors(tmp_path / "model.safetensors")["turned"].data, tensor.data[::-1])


def test_every_tensor_is_aligned(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", mixed())
    start = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")

    assert start % 8 == 0
    for tensor in read_safetensors(tmp_path / "model.safetensors").values():
        assert tensor.data.ctypes.data % {"F32": 4, "F16": 2, "BF16": 2}[tensor.encoding] == 0


@pytest.mark.parametrize(("value", "asked"), [(65536.0, "F16"), (-7e4, "F16"), (3.4e38, "BF16")])
def test_a_value_beyond_the_type_is_refused_by_name(value, asked, tmp_path):
    tensors = {"a": tensor_of(np.array([[1.0, value]]), "F32")}

    with pytest.raises(ModelError, match=f"tensor 'its-name' has values beyond what {asked} holds; --dtype float32"):
        write_safetensors(tmp_path / "model.safetensors", tensors, asked)


@pytest.mark.parametrize(("value", "asked"), [(65504.0, "F16"), (3.38953139e38, "BF16")])
def test_the_largest_value_is_none_too_many(value, asked, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"a": tensor_of(np.array([[value]]), "F32")}, asked)

    assert np.isfinite(read_safetensors(tmp_path / "model.safetensors")["a"].to_float32()).all()
