"""The decoder, as a plain function of tokens, positions and cache, against transformers with the same weights."""

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from model.config import ModelConfig
from model.formats.checkpoint import Checkpoint
from model.torch_backend.attention import Span, view_cache
from model.torch_backend.kv_cache import KVCache, KVLayout
from model.torch_backend.transformer import Transformer
from model.torch_backend.weights import build_transformer
from tests.model.random_checkpoint import LLAMA, QWEN2, QWEN3, QWEN3_MOE, random_checkpoint
from tests.model.torch_backend.devices import ON_EVERY_DEVICE

CONFIGS = {config.architecture: config for config in (LLAMA, QWEN2, QWEN3, QWEN3_MOE)}
ORACLES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen3moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}


def oracle_for(checkpoint: Checkpoint) -> PreTrainedModel:
    config = checkpoint.config
    make_config, make_model = ORACLES[config.architecture]
    moe = config.moe
    more: dict[str, object] = {}
    if moe is not None:
        more = {
            "num_experts": moe.num_experts,
            "num_experts_per_tok": moe.num_experts_per_token,
            "moe_intermediate_size": moe.intermediate_size,
            "norm_topk_prob": moe.norm_topk_prob,
            "mlp_only_layers": sorted(moe.dense_layers),
        }
    model = make_model(
        make_config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope.theta},
            tie_word_embeddings=config.tie_word_embeddings,
            **more,
        )
    )
    missing, unexpected = model.load_state_dict(oracle_weights(checkpoint), strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    return model.eval()


def oracle_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """By transformers' names, which stacks experts."""
    weights = {name: torch.from_numpy(tensor.to_float32()) for name, tensor in checkpoint.weights.items()}
    for layer in range(checkpoint.config.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        experts = range(checkpoint.config.moe.num_experts) if f"{prefix}0.up_proj.weight" in weights else []
        gates, ups, downs = (
            [weights.pop(f"{prefix}{x}.{name}_proj.weight") for x in experts] for name in ("gate", "up", "down")
        )
        if experts:
            weights[f"{prefix}gate_up_proj"] = torch.cat((torch.stack(gates), torch.stack(ups)), 1)
            weights[f"{prefix}down_proj"] = torch.stack(downs)
    return weights


class Model:
    """One transformer and one poisoned cache, with slots of 10 blocks each."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.config: ModelConfig = checkpoint.config
        self.device = torch.device(device)
        self.transformer: Transformer = build_transformer(checkpoint, self.device, torch.float32)
        self.cache = KVCache(KVLayout.of(self.config, torch.float32), 40, self.device, poison=True)

    @torch.inference_mode()
    def logits(self, *chunks: tuple[int, int, list[int]]) -> Tensor:
        """Of (slot, first position, token ids): [T, V] behind every token of the step."""
        spans: list[Span] = []
        for slot, first_position, token_ids in chunks:
            first_row = sum(span.num_tokens for span in spans)
            spans.append(Span(first_row, first_position, len(token_ids), range(slot, 40, 4)))
        view = view_cache(self.cache, spans, self.config.num_heads, torch.float32)
        token_ids = torch.tensor([token for *_, tokens in chunks for token in tokens], device=self.device)
        positions = torch.tensor(
            [p for span in spans for p in range(span.first_position, span.end)], device=self.device
        )
        return self.transformer.logits(self.transformer.forward(token_ids, positions, view)).cpu()


def random_tokens(num_tokens: int, seed: int) -> list[int]:
    return torch.randint(0, 331, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


@ON_EVERY_DEVICE
@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_are_transformers_own(architecture: str, device: str) -> None:
    checkpoint = random_checkpoint(CONFIGS[architecture], 1)
    oracle, model, token_ids = oracle_for(checkpoint), Model(checkpoint, device), random_tokens(310, 2)
    with torch.inference_mode():
        expected = oracle(torch.tensor([token_ids])).logits[0]
    assert expected.std() > 0.3  # a model whose answers depend on its input
    torch.testing.assert_close(model.logits((0, 0, token_ids)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_of_a_token_hardly_depend_on_how_its_text_was_cut(architecture: str) -> None:
    checkpoint, token_ids = random_checkpoint(CONFIGS[architecture], 1), random_tokens(150, 2)
    whole = Model(checkpoint, "cpu").logits((0, 0, token_ids))
    for cuts in ([1], [31, 32, 33], [7, 100, 149], list(range(130, 150))):
        model = Model(checkpoint, "cpu")
        bounds = zip([0, *cuts], [*cuts, 150], strict=True)
        parts = [model.logits((0, start, token_ids[start:end])) for start, end in bounds]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_decoded_token_is_the_same_in_any_company_but_for_rounding(architecture: str) -> None:
    checkpoint = random_checkpoint(CONFIGS[architecture], 1)
    texts = [random_tokens(length, length) for length in (40, 3, 77, 40)]

    def fill(model: Model, slots: list[int]) -> Model:
        for slot in slots:
            model.logits((slot, 0, texts[slot]))
        return model

    together = fill(Model(checkpoint, "cpu"), [0, 1, 2, 3]).logits(*[(i, len(texts[i]), [i]) for i in (2, 0, 3, 1)])
    for row, slot in enumerate((2, 0, 3, 1)):
        alone = fill(Model(checkpoint, "cpu"), [slot]).logits((slot, len(texts[slot]), [slot]))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
