"""The command itself: what it costs to ask for help, and what its exit statuses say."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from app.listener import AddressError
from app.version import installed_version
from model import default_model
from model.errors import ModelError
from tests.model.gguf_files import small_config, write_gguf
from tests.model.test_load import write_tokenizer

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "line",
    [
        *("--help", "--version", "serve --help", "pull --help", "serve --port x"),
        *("show --help", "export --help", "export-tokenizer --help"),
    ],
)
def test_what_runs_nothing_imports_nothing_heavy(line):
    program = (
        "import sys\nfrom app.cli import main\n"
        "try:\n    main(sys.argv[1].split())\n"
        "except SystemExit:\n    pass\n"
        "sys.stderr.write('\\nmodules ' + ' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, line], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stderr.rpartition("\nmodules ")[2].split())

    assert "app.cli" in modules
    assert modules.isdisjoint({"torch", "numpy", "gguf", "tokenizers", "fastapi", "starlette", "uvicorn", "jinja2"})


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["--version"])

    assert raised.value.code == 0
    assert capsys.readouterr().out == f"slotwise {installed_version()}\n"


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["--help"])

    assert raised.value.code == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.replace("\n                    ", " ").splitlines()]
    assert all(f"{command.name} {command.summary}" in lines for command in cli.COMMANDS)


def test_no_command_is_answered_with_help(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serv"], "slotwise: error: argument COMMAND: invalid choice: 'serv'"),
        (["serve", "--prot", "1"], "slotwise serve: error: there is no option --prot; did you mean --port?"),
        (["pull", "--port", "1"], "slotwise pull: error: there is no option --port"),
        (["pull", "a"], "slotwise pull: error: a is one word too many; none is needed"),
        (["export-tokenizer"], "slotwise export-tokenizer: error: the following arguments are required: MODEL, DIR"),
        (["export-tokenizer", "a"], "slotwise export-tokenizer: error: the following arguments are required: DIR"),
        (
            ["export-tokenizer", "a", "b", "c"],
            "slotwise export-tokenizer: error: c is one word too many; there is one MODEL and one DIR",
        ),
        (
            ["export-tokenizer", "a", "b", "--tokeniser", "c"],
            "slotwise export-tokenizer: error: there is no option --tokeniser; did you mean --tokenizer?",
        ),
        (["show"], "slotwise show: error: the following arguments are required: MODEL"),
        (["show", "a", "--jsn"], "slotwise show: error: there is no option --jsn; did you mean --json?"),
        (["export", "a"], "slotwise export: error: the following arguments are required: DIR"),
        (["export", "a", "b", "--dtype", "int8"], "slotwise export: error: --dtype int8: must be 'auto', 'float32', "),
        (["--nothing", "serve"], "slotwise serve: error: there is no option --nothing"),
        (["pull", "--cache-dir"], "slotwise pull: error: argument --cache-dir: expected one argument"),
    ],
)
def test_a_command_line_with_a_mistake_ends_with_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(words)

    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_export_prints_the_folder_and_nothing_else(capsys, tmp_path):
    path = write_gguf(tmp_path / "small.gguf", small_config())
    words = ["export", str(path), str(tmp_path / "export"), "--tokenizer", str(write_tokenizer(tmp_path / "t"))]

    assert cli.main([*words, "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'export'}\n"
    assert json.loads((tmp_path / "export" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith(f"slotwise export: error: {tmp_path / 'export'}: is there already")


def test_pull_prints_the_path_and_nothing_else(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(default_model, "pull", lambda cache_dir: cache_dir / "model.gguf")

    assert cli.main(["pull", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model.gguf'}\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ModelError("a.gguf", "it is cut short."), 2, "slotwise pull: error: a.gguf: it is cut short.\n"),
        (
            AddressError("::1", 80, PermissionError(13, "Permission denied")),
            2,
            "slotwise pull: error: cannot listen on ::1 port 80: this user may not; choose a port from 1024 on "
            "with --port.\n",
        ),
        (KeyboardInterrupt(), 130, "slotwise pull: interrupted.\n"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(error, status, message, monkeypatch, capsys):
    def fail(cache_dir):
        raise error

    monkeypatch.setattr(default_model, "pull", fail)

    assert cli.main(["pull"]) == status
    assert capsys.readouterr().err == message


def test_sigterm_leaves_no_half_fetched_file(tmp_path):
    """pip is given an index that accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as index, (tmp_path / "err").open("w") as err:
        settings = {
            "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
        }
        program = "import sys; from app.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "pull", "--cache-dir", str(tmp_path / "cache")]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stderr=err)
        index.settimeout(60)
        with index.accept()[0]:  # pip has come
            assert [path.name[:6] for path in (tmp_path / "cache").iterdir()] == ["fetch-"]
            process.terminate()

            assert process.wait(60) == 143
    assert list((tmp_path / "cache").iterdir()) == []
