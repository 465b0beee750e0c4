import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.torch_backend.layers import ROWS, GatedMlp, Linear, MixtureOfExperts, RMSNorm, Rotation


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def random_linear(num_in: int, num_out: int, seed: int) -> Linear:
    return Linear(random(num_out, num_in, seed=seed, scale=num_in**-0.5), random(num_out, seed=seed + 1))


def random_mlp(seed: int) -> GatedMlp:
    return GatedMlp(random_linear(24, 64, seed), random_linear(32, 24, seed + 2))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 8, 9, 40])
def test_a_linear_is_a_product_and_a_bias_for_any_number_of_rows(num_rows: int) -> None:
    linear, x = random_linear(24, 50, 1), random(num_rows, 24)
    expected = x.double() @ linear.weight.double().T + (linear.bias if linear.bias is not None else 0)
    torch.testing.assert_close(linear(x), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_in", "num_out"), [(576, 960), (576, 3072), (1536, 576), (48, 331)])
def test_a_rows_product_is_the_same_bits_in_any_company(num_in: int, num_out: int) -> None:
    linear, row = random_linear(num_in, num_out, 2), random(1, num_in, seed=3)
    alone = linear(row)
    for num_rows in (2, 3, ROWS, ROWS + 1, 4 * ROWS + 3):
        for place in {0, 1, num_rows // 2, num_rows - 1}:
            crowd = random(num_rows, num_in, seed=num_rows, scale=100.0)
            crowd[place] = row
            assert torch.equal(linear(crowd)[place], alone[0]), (num_rows, place)


@pytest.mark.parametrize("num_rows", [2, 9, 33])
def test_norm_rotation_and_mixture_give_a_row_the_same_bits_in_any_company(num_rows: int) -> None:
    norm = RMSNorm(random(24, seed=7), 1e-5)
    mixture = MixtureOfExperts(random_linear(24, 5, 9), tuple(random_mlp(20 + i) for i in range(5)), 2, True)
    x, positions = random(num_rows, 24, seed=num_rows), torch.arange(num_rows) * 7
    inverse = torch.tensor([1.0, 0.1, 0.01, 1e-3])
    together = norm(x), mixture(x), Rotation.at(positions, inverse, 1.0)(x.view(num_rows, 3, 8))
    for i in range(num_rows):
        turn = Rotation.at(positions[i : i + 1], inverse, 1.0)
        alone = norm(x[i : i + 1]), mixture(x[i : i + 1]), turn(x[i : i + 1].view(1, 3, 8))
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone, together, strict=True))


def test_rms_norm_is_torchs_own() -> None:
    x, weight = random(5, 3, 16), random(16, seed=1)
    torch.testing.assert_close(RMSNorm(weight, 1e-3)(x), F.rms_norm(x, (16,), weight, 1e-3))


def test_rms_norm_rounds_once() -> None:
    x, weight = random(50, 64).bfloat16(), random(64, seed=1)
    exact = F.rms_norm(x.double(), (64,), weight.double(), 1e-5)
    assert torch.equal(RMSNorm(weight, 1e-5)(x), exact.bfloat16())


def test_rotation_turns_each_pair_by_its_angle() -> None:
    inverse, positions = torch.tensor([1.0, 0.25]), torch.tensor([0, 3])
    x = random(2, 5, 4)
    turned = Rotation.at(positions, inverse, 2.0)(x)
    pairs = torch.complex(x[..., :2], x[..., 2:])  # (x[i], x[i + D/2])
    expected = 2.0 * pairs * torch.polar(torch.ones(2, 2), positions[:, None] * inverse)[:, None]
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), -1))


def test_a_gated_mlp_gates_with_the_first_half() -> None:
    mlp, x = random_mlp(3), random(4, 24)
    both = mlp.gate_up(x)
    gate, up = both[:, :32], both[:, 32:]
    torch.testing.assert_close(mlp(x), mlp.down(gate / (1 + (-gate).exp()) * up))


@pytest.mark.parametrize("norm_weights", [True, False])
def test_a_mixture_is_the_weighted_sum_of_each_tokens_best_experts(norm_weights: bool) -> None:
    experts = tuple(random_mlp(10 * i) for i in range(4))
    mixture = MixtureOfExperts(random_linear(24, 4, 99), experts, 2, norm_weights)
    x = random(11, 24)
    rows = []
    for row in x:
        probabilities = mixture.router(row[None])[0].softmax(-1)
        best = probabilities.argsort(descending=True)[:2]
        total = probabilities[best].sum() if norm_weights else 1.0
        rows.append(sum(probabilities[i] / total * experts[i](row[None])[0] for i in best))
    torch.testing.assert_close(mixture(x), torch.stack(rows))
