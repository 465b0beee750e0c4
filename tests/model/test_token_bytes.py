import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from model.errors import ModelError
from model.token_bytes import token_bytes

PATH = Path("folder")
SENTENCEPIECE = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def spell(tokens: list[str], decoder: decoders.Decoder) -> list[bytes]:
    backend = Tokenizer(models.BPE(vocab={token: token_id for token_id, token in enumerate(tokens)}, merges=[]))
    backend.decoder = decoder
    return list(token_bytes(backend, PATH))


def test_every_byte_has_its_character_in_the_byte_alphabet():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())

    assert sorted(spell(alphabet, decoders.ByteLevel())) == [bytes([byte]) for byte in range(256)]
    assert spell(["Ġthe", "Ċ", "ä½ł", "½", "two words", "日"], decoders.ByteLevel()) == [
        b" the",
        b"\n",
        "你".encode(),
        b"\xbd",
        b"two words",
        "日".encode(),
    ]


def test_bytes_of_sentencepiece_tokens():
    tokens = ["▁the", "▁▁", "<0x0A>", "<0xe4>", "<0xGG>", "<0x0A>>", "é"]

    assert spell(tokens, decoders.Sequence(SENTENCEPIECE)) == [
        b" the",
        b"  ",
        b"\n",
        b"\xe4",
        b"<0xGG>",
        b"<0x0A>>",
        "é".encode(),
    ]
    assert spell(["▁the", "<0x0A>"], decoders.Metaspace()) == [b" the", b"<0x0A>"]


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (decoders.WordPiece(), "WordPiece"),
        (decoders.CTC(), "CTC"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.Replace(Regex("▁+"), " "), "Regex"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()]), "Strip"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), "Strip"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), "ByteLevel"),
        (None, "no decoder"),
    ],
)
def test_a_decoder_that_cannot_be_followed_token_by_token_is_refused_by_name(decoder, name):
    with pytest.raises(ModelError, match=name):
        spell(["a"], decoder)


def test_ids_without_a_token_have_no_bytes():
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 3}, merges=[]))
    backend.decoder = decoders.ByteLevel()

    assert token_bytes(backend, PATH) == (b"a", b"", b"", b"b")


def test_an_id_beyond_all_reason_is_refused():
    model = {"type": "BPE", "vocab": {"a": 0, "b": 4_000_000_000}, "merges": []}
    backend = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    backend.decoder = decoders.ByteLevel()

    with pytest.raises(ModelError, match="2 tokens, but ids up to 4000000000"):
        token_bytes(backend, PATH)
