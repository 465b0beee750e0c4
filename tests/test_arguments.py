"""The command line as a person meets it: help, and errors that name the flag."""

from pathlib import Path

import pytest

from app.arguments import Parser, add_options, options_of, read_settings
from app.settings import PullSettings, ServeSettings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    for option in options_of(ServeSettings):
        monkeypatch.delenv(option.environment, raising=False)


def read(*words: str) -> ServeSettings:
    parser = Parser(prog="slotwise serve")
    add_options(parser, ServeSettings)
    namespace, unknown = parser.parse_known_args(words)
    return read_settings(parser, ServeSettings, vars(namespace), unknown)


def error_of(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as raised:
        read(*words)
    assert raised.value.code == 2
    return capsys.readouterr().err


def help_text(monkeypatch, capsys, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as raised:
        read("--help")
    assert raised.value.code == 0
    return capsys.readouterr().out


def test_words_become_settings():
    settings = read(
        *("model.gguf", "--port", "9000", "--max-model-len=4k", "--debug-poison"),
        *("--served-model-name", "a,b", "--served-model-name", "c", "--cache-dir", "x"),
    )

    assert (settings.model, settings.port, settings.max_model_len) == ("model.gguf", 9000, 4096)
    assert settings.debug_poison is True
    assert settings.served_model_name == ("a", "b", "c")
    assert settings.cache_dir == Path("x")


def test_no_words_leave_every_default():
    assert read() == ServeSettings()


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("SLOTWISE_PORT", "9000")
    monkeypatch.setenv("SLOTWISE_DEBUG_POISON", "true")

    assert read().debug_poison is True
    assert (read("--port", "1").port, read("--no-debug-poison").debug_poison) == (1, False)


@pytest.mark.parametrize("columns", [60, 300])
def test_help_shows_every_option_whole(monkeypatch, capsys, columns):
    text = help_text(monkeypatch, capsys, columns)
    letters = "".join(text.split())  # lines break anywhere

    for option in options_of(ServeSettings):
        line = f"{option.meaning} [{option.environment}; default: {option.default}]"
        assert option.flag in text
        assert "".join(line.split()) in letters
    assert max(len(line) for line in text.splitlines()) <= min(columns, 100)


def test_help_has_its_headings_in_order(monkeypatch, capsys):
    text = help_text(monkeypatch, capsys, 100)

    headings = [line for line in text.splitlines() if line in ("Model:", "Computation:", "Limits:", "Server:")]
    assert headings == ["Model:", "Computation:", "Limits:", "Server:"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "99999"], "--port 99999: must be less than or equal to 65535"),
        (["--port", "http"], "--port http: must be a valid integer"),
        (["--dtype", "fp8"], "--dtype fp8: must be 'auto', 'float32', 'bfloat16' or 'float16'"),
        (["--max-model-len", "4kB"], "--max-model-len 4kB: must be a whole number such as 4096 or 4k"),
        (["--kv-cache-memory", "much"], "--kv-cache-memory much: must be a size such as 4096, 512m or 2GiB"),
        (["--threads", "0"], "--threads 0: must be greater than or equal to 1"),
        (["--served-model-name", "a,,b"], "--served-model-name '': must be one line of text, and not empty"),
        ([""], "MODEL '': must be one line of text, and not empty"),
        (["a\nb"], r"MODEL 'a\nb': must be one line of text, and not empty"),
        (["--api-key-file", "nowhere"], "--api-key-file nowhere: the file cannot be read: No such file or directory"),
        (["--max-num-seqs", "1k"], "--max-num-batched-tokens 256 is less than --max-num-seqs 1024; each running"),
        (["--prot", "80"], "there is no option --prot; did you mean --port?"),
        (["--max_model_len=5"], "there is no option --max_model_len; did you mean --max-model-len?"),
        (["--max-model", "5"], "there is no option --max-model; did you mean --max-model-len?"),
        (["--xyz"], "there is no option --xyz\n"),
        (["a", "b"], "b is one word too many; there is one MODEL at most\n"),
        (["--port"], "argument --port: expected one argument"),
    ],
)
def test_an_error_is_one_line_that_names_the_flag(words, message, capsys):
    error = error_of(capsys, *words)

    assert error.startswith(f"slotwise serve: error: {message}")
    assert error.count("\n") == 1


def test_each_mistake_has_its_line(capsys):
    lines = error_of(capsys, "--port", "-1", "--threads", "0").splitlines()

    assert [line.split(" ")[3] for line in lines] == ["--threads", "--port"]


def test_a_bad_value_of_the_environment_is_named_as_such(monkeypatch, capsys):
    monkeypatch.setenv("SLOTWISE_PORT", "http")

    assert error_of(capsys) == "slotwise serve: error: SLOTWISE_PORT=http (--port): must be a valid integer\n"


@pytest.mark.parametrize("source", ["flag", "environment"])
def test_an_error_does_not_show_a_key(source, monkeypatch, capsys):
    key = "secret with spaces"
    if source == "environment":
        monkeypatch.setenv("SLOTWISE_API_KEY", f"good,{key}")

    error = error_of(capsys, *(["--api-key", key] if source == "flag" else []))

    assert "--api-key" in error
    assert "secret" not in error
    assert "good" not in error


def test_pull_knows_only_its_own_options():
    assert [option.flag for option in options_of(PullSettings)] == ["--cache-dir"]


def test_an_option_tells_all_that_its_documentation_needs():
    port = next(option for option in options_of(ServeSettings) if option.name == "port")

    assert (port.flag, port.environment, port.default, port.metavar) == ("--port", "SLOTWISE_PORT", "8000", "N")


def test_a_variable_that_is_almost_an_option_is_told(monkeypatch, capsys):
    monkeypatch.setenv("SLOTWISE_MAX_SEQS", "8")
    monkeypatch.setenv("SLOTWISE_SERVICE_HOST", "10.0.0.1")
    read()
    warning = "slotwise serve: warning: no option reads SLOTWISE_MAX_SEQS; did you mean SLOTWISE_MAX_NUM_SEQS?\n"
    assert capsys.readouterr().err == warning
