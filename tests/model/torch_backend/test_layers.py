import pytest
import torch

from model.torch_backend.layers import Linear


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 8, 9, 17, 64])
def test_a_row_of_a_float32_product_does_not_depend_on_its_neighbours(num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    linear = Linear(torch.randn(96, 200, generator=generator), torch.randn(96, generator=generator))
    row = torch.randn(1, 200, generator=generator)
    alone = linear(row)
    for position in range(num_rows):
        neighbours = torch.randn(num_rows, 200, generator=generator)
        neighbours[position] = row
        assert torch.equal(linear(neighbours)[position], alone[0])
