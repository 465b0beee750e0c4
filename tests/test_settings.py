"""What the options mean, where they may come from, and which wins."""

import dataclasses
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.key_file import KeyFile
from app.option_values import parse_count, parse_size
from app.settings import PullSettings, ServeSettings
from model.options import AdapterOption, LoadOptions

GIB = 1024**3


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for name in (f"SLOTWISE_{field.upper()}" for field in ServeSettings.model_fields):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("4Ki", 4096),
        ("4kB", 4096),
        ("2GiB", 2 * GIB),
        ("2g", 2 * GIB),
        ("2 GB", 2 * GIB),
        ("1.5g", 3 * GIB // 2),
        ("0.3k", 307),
        ("512m", 512 * 1024**2),
        ("1T", 1024**4),
        ("100B", 100),
        ("18014398509481985", 2**54 + 1),  # no detour over a float
    ],
)
def test_a_size_counts_in_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "4x", "-4k", "4kk", "1e3", "4,096", "nan", "inf", "4i", "0x10", "٤k", "1.g"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="must be a size such as"):
        parse_size(text)


@pytest.mark.parametrize(("text", "count"), [("4k", 4096), ("64", 64), ("1.5K", 1536)])
def test_a_count_is_a_size_without_bytes(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["4kB", "64b", "", "many"])
def test_bytes_are_no_count(text):
    with pytest.raises(ValueError, match="must be a whole number such as"):
        parse_count(text)


def test_the_defaults_are_those_of_the_documentation():
    settings = ServeSettings()

    assert (settings.model, settings.host, settings.port) == ("default", "127.0.0.1", 8000)
    assert (settings.max_num_seqs, settings.max_num_batched_tokens) == (64, 256)
    assert settings.keys == ()
    assert settings.debug_poison is False
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("model", "a.gguf", "a.gguf"),
        ("tokenizer", "folder", "folder"),
        ("allow_tokenizer_mismatch", "1", True),
        ("merge_lora", "tuned.pth", "tuned.pth"),
        ("lora", "a=x.pth,b=y=z", (AdapterOption("a", "x.pth"), AdapterOption("b", "y=z"))),
        ("served_model_name", "a,b", ("a", "b")),
        ("host", "0.0.0.0", "0.0.0.0"),
        ("port", "9000", 9000),
        ("backend", "torch", "torch"),
        ("device", "cuda", "cuda"),
        ("dtype", "bfloat16", "bfloat16"),
        ("weights", "int4", "int4"),
        ("kv_dtype", "int8", "int8"),
        ("threads", "3", 3),
        ("max_model_len", "4k", 4096),
        ("max_num_seqs", "8", 8),
        ("max_num_batched_tokens", "1k", 1024),
        ("kv_cache_memory", "2GiB", 2 * GIB),
        ("api_key", "one,two", (SecretStr("one"), SecretStr("two"))),
        ("debug_poison", "1", True),
        ("isolation_checks", "canary", "canary"),
        ("rope_scaling", "minimind-yarn", "minimind-yarn"),
        ("log_level", "debug", "debug"),
        ("cache_dir", "elsewhere", Path("elsewhere")),
        ("allowed_origins", "http://a,http://b:1", ("http://a", "http://b:1")),
        ("max_body_size", "1m", 2**20),
        ("max_requests_per_minute", "60", 60),
        ("max_tokens_per_minute", "100k", 102_400),
        ("max_queued_requests", "2k", 2048),
        ("max_queued_tokens", "4m", 2**22),
        ("request_timeout", "1.5", 1.5),
        ("weights_root", ".", Path()),
        ("drain_timeout", "0", 0.0),
    ],
)
def test_every_option_is_read_from_the_environment(field, text, value, monkeypatch):
    monkeypatch.setenv(f"SLOTWISE_{field.upper()}", text)

    assert getattr(ServeSettings(), field) == value
    assert field in ServeSettings.model_fields


def test_no_option_is_missing_from_the_test_above():
    tested = {case[0] for case in test_every_option_is_read_from_the_environment.pytestmark[0].args[1]}

    assert tested | {"api_key_file"} == ServeSettings.model_fields.keys()


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("SLOTWISE_PORT", "9000")
    monkeypatch.setenv("SLOTWISE_SERVED_MODEL_NAME", "a,b")

    settings = ServeSettings(port="9001", served_model_name=["c"])

    assert settings.port == 9001
    assert settings.served_model_name == ("c",)


@pytest.mark.parametrize("field", ServeSettings.model_fields)
def test_an_empty_environment_variable_counts_as_unset(field, monkeypatch):
    monkeypatch.setenv(f"SLOTWISE_{field.upper()}", "")

    assert getattr(ServeSettings(), field) == ServeSettings.model_fields[field].default


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        ServeSettings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", "two\nlines"),
        ("served_model_name", ["a,,b"]),
        ("lora", ["a"]),
        ("lora", ["=path"]),
        ("lora", ["a="]),
        ("lora", ["a=b,"]),
        ("backend", "numpy"),
        ("dtype", "int8"),
        ("weights", "bfloat16"),
        ("kv_dtype", "int4"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "8000.5"),
        ("threads", "0"),
        ("max_model_len", "0"),
        ("max_num_seqs", "0"),
        ("kv_cache_memory", "0"),
        ("debug_poison", "perhaps"),
        ("api_key", ["with space"]),
        ("api_key", ["schlüssel"]),
        ("api_key", [""]),
        ("log_level", "loud"),
    ],
)
def test_a_bad_value_is_refused_where_it_stands(field, value):
    with pytest.raises(ValidationError) as raised:
        ServeSettings(**{field: value})

    assert raised.value.errors()[0]["loc"][0] == field


def test_a_step_must_hold_a_token_of_every_running_request():
    with pytest.raises(ValidationError, match="--max-num-batched-tokens 256 is less than --max-num-seqs 257"):
        ServeSettings(max_num_seqs=257)

    assert ServeSettings(max_num_seqs=256).max_num_seqs == 256


@pytest.mark.parametrize("given", [{"lora": ["a=b", "a=c"]}, {"lora": ["a=b"], "served_model_name": ["x", "a"]}])
def test_two_things_of_one_name_are_refused(given):
    with pytest.raises(ValidationError, match="--lora a: the name is taken, by the model or by another adapter"):
        ServeSettings(**given)


def test_names_may_be_repeated_and_put_in_a_list():
    assert ServeSettings(served_model_name=["a, b", "c"]).served_model_name == ("a", "b", "c")


def test_keys_come_from_the_flag_and_from_the_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# our keys\n\n  three  \nfour#4\nalice:five\nbob-2:  six:6\nalice:seven\n")

    keys = ServeSettings(api_key=["one", "two"], api_key_file=str(file)).keys
    assert [(named.owner, named.key.get_secret_value()) for named in keys] == [
        ("key-1", "one"),
        ("key-2", "two"),
        ("key-3", "three"),
        ("key-4", "four#4"),
        ("alice", "five"),
        ("bob-2", "six:6"),
        ("alice", "seven"),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no key in it"),
        (b"# only a comment\n\n", "has no key in it"),
        (b"\xff\xfe", "not UTF-8"),
        (b"two words\n", "without spaces"),
        (b"key # remark\n", "without spaces"),
        (b"alice:\n", "one or more visible"),
        (b":secret-word\n", "a name before a key"),
        (b"two words:secret-word\n", "a name before a key"),
        (b"key-7:secret-word\n", "a name before a key"),
    ],
)
def test_a_key_file_that_gives_no_key_is_refused(content, problem, tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(content)

    with pytest.raises(ValueError, match=problem) as caught:
        KeyFile.read(str(file))
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", "https://a b", "", "null"])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValidationError, match="must be an origin"):
        ServeSettings(allowed_origins=[origin])
    assert ServeSettings(allowed_origins=["http://localhost:3000,*"]).allowed_origins == ("http://localhost:3000", "*")


def test_a_key_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        KeyFile.read(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        KeyFile.read(str(tmp_path))


def test_a_key_is_never_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text("hidden-in-file\n")
    settings = ServeSettings(api_key=["hidden-in-flag"], api_key_file=str(file))

    assert "hidden" not in repr(settings) + str(settings) + repr(settings.model_dump())


def test_what_concerns_loading_reaches_the_loader():
    """Each field of LoadOptions is set from a setting: a value unlike its default arrives."""
    settings = ServeSettings(
        model="m",
        tokenizer="t",
        merge_lora="a",
        lora=["b=c"],
        backend="torch",
        device="cpu",
        dtype="float32",
        weights="int8",
        kv_dtype="bfloat16",
        rope_scaling="minimind-yarn",
        threads=3,
        max_model_len=5,
        max_num_seqs=7,
        max_num_batched_tokens=9,
        kv_cache_memory=11,
        debug_poison=True,
        isolation_checks="debug",
        cache_dir="c",
        allow_tokenizer_mismatch=True,
    )

    options = settings.load_options()

    words = ("m", "t", "a", (AdapterOption("b", "c"),), "torch", "cpu", "float32", "int8", "bfloat16", "minimind-yarn")
    assert options == LoadOptions(*words, 3, 5, 7, 9, 11, True, "debug", Path("c"), True)
    assert all(
        getattr(options, field.name) != getattr(LoadOptions(), field.name) for field in dataclasses.fields(LoadOptions)
    )


def test_pull_has_only_the_folder():
    assert list(PullSettings.model_fields) == ["cache_dir"]
