"""Every option once: its flag, its name in the environment, its default, its meaning and its bounds.

A flag wins over the environment, the environment over the default; an empty environment variable counts as unset.
`app/arguments.py` makes the command line, its help and its errors of these classes. Nothing here starts, loads or
prints anything; the one file that is read is that of the API keys.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.key_file import NamedKey
from app.option_values import Adapters, Count, Folder, Keys, Names, Origins, ReadKeyFile, Size, Text, option, word
from model.options import (
    DEFAULT_MODEL_NAME,
    BackendName,
    DeviceName,
    DTypeName,
    IsolationChecksName,
    KVDTypeName,
    LoadOptions,
    RopeScalingName,
    WeightsName,
)

LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class PullSettings(BaseSettings):
    """Options of `slotwise pull`."""

    model_config = SettingsConfigDict(env_prefix="SLOTWISE_", env_ignore_empty=True, frozen=True)

    cache_dir: Path | None = option(
        "Model", "FOLDER", "Where the fetched default model is kept.", None, said="the user's cache folder"
    )


class ModelSettings(PullSettings):
    """What commands about a model ask that start no server."""

    model: Text = word("MODEL", "As for serve; the word default is the model that slotwise fetches.")
    tokenizer: Text | None = option(
        "Model",
        "FOLDER",
        "Folder of the tokenizer.json of a model that has none (.pth).",
        None,
        said="beside the model",
    )

    def load_options(self) -> LoadOptions:
        return LoadOptions(model=self.model, tokenizer=self.tokenizer, cache_dir=self.cache_dir)


class ShowSettings(ModelSettings):
    """Words and options of `slotwise show`."""

    as_json: bool = option("Output", "", "As JSON, for programs.", False, flag="--json")


class ExportSettings(ModelSettings):
    """Words and options of `slotwise export`."""

    folder: Path = word("DIR", "The folder to write, new or empty.")
    dtype: DTypeName = option(
        "Output",
        "TYPE",
        "Of the weights: float32, bfloat16 or float16; auto: as stored, and float16 for what is quantised.",
        "auto",
    )


class ExportTokenizerSettings(ModelSettings):
    """Words and options of `slotwise export-tokenizer`."""

    folder: Path = word("DIR", "The folder to write, new or empty or written by this command before.")


class ServeSettings(PullSettings):
    """Options of `slotwise serve`."""

    model: Text = option(
        "Model",
        "MODEL",
        "GGUF file, Hugging Face folder (config.json, safetensors, tokenizer.json) or MiniMind .pth file.",
        DEFAULT_MODEL_NAME,
        said="SmolLM2-135M-Instruct, fetched once",
    )
    tokenizer: Text | None = option(
        "Model",
        "FOLDER",
        "Folder of the tokenizer.json of a model that has none (.pth).",
        None,
        said="beside the model",
    )
    allow_tokenizer_mismatch: bool = option(
        "Model", "", "Serve MiniMind weights with the tokenizer of another era, which is refused otherwise.", False
    )
    merge_lora: Text | None = option(
        "Model", "PATH", "LoRA adapter to merge into the model: MiniMind's .pth file, or PEFT's folder.", None
    )
    lora: Adapters = option(
        "Model",
        "NAME=PATH",
        "LoRA adapter for the requests whose model is NAME; several: repeat it, or put commas.",
        (),
        said="none",
    )
    served_model_name: Names = option(
        "Model", "NAME", "What clients call the model; several: repeat it, or put commas.", (), said="the file's"
    )

    backend: BackendName = option("Computation", "NAME", "What computes the model: auto, native or torch.", "auto")
    device: DeviceName = option("Computation", "NAME", "Where: auto (a GPU if there is one), cpu or cuda.", "auto")
    dtype: DTypeName = option("Computation", "TYPE", "Of the weights: auto, float32, bfloat16 or float16.", "auto")
    weights: WeightsName = option(
        "Computation", "KIND", "Quantise a float model while it is read: int8 or int4; auto: leave it as it is.", "auto"
    )
    kv_dtype: KVDTypeName = option(
        "Computation", "TYPE", "Of the KV cache: auto, float32, bfloat16, float16 or int8.", "auto"
    )
    rope_scaling: RopeScalingName = option(
        "Computation", "NAME", "Of rotary positions: auto, as the model's files say, or minimind-yarn.", "auto"
    )
    threads: int | None = option("Computation", "N", "CPU threads.", None, said="the physical cores", ge=1, le=1024)
    debug_poison: bool = option(
        "Computation", "", "Fill free KV blocks and unused positions with NaN, so that a stray read shows.", False
    )
    isolation_checks: IsolationChecksName = option(
        "Computation", "KIND", "Whether blocks are their slots' own, in every step: off, canary or debug.", "off"
    )

    max_model_len: Count | None = option(
        "Limits", "N", "Most tokens of one request, prompt and answer.", None, said="the model's own", ge=1, le=2**24
    )
    max_num_seqs: Count = option("Limits", "N", "Most requests that run at once; others wait.", 64, ge=1, le=2**14)
    max_num_batched_tokens: Count = option(
        "Limits", "N", "Most tokens of one step; a long prompt is read over several.", 256, ge=1, le=2**20
    )
    kv_cache_memory: Size | None = option(
        "Limits",
        "SIZE",
        "Most memory of the KV cache, such as 512m or 2GiB: a limit, not a reservation.",
        None,
        said="half of what is free, at most max-num-seqs full contexts",
        ge=1,
        le=2**50,
    )
    max_queued_requests: Count = option(
        "Limits", "N", "Most requests that wait for a slot; more are refused with 429.", 1024, ge=0, le=2**20
    )
    max_queued_tokens: Count = option(
        "Limits", "N", "Most tokens of the prompts that wait.", 2**20, said="1m", ge=1, le=2**32
    )
    request_timeout: float = option(
        "Limits",
        "SECONDS",
        "Longest time of a request, its wait included; then it has what it has.",
        600,
        gt=0,
        le=1e6,
    )

    host: Text = option("Server", "ADDRESS", "Address to listen on; 0.0.0.0 for every network.", "127.0.0.1")
    port: int = option("Server", "N", "Port to listen on; 0 takes any that is free.", 8000, ge=0, le=65535)
    api_key: Keys = option(
        "Server", "KEY", "Key that clients must send; repeatable. `ps` shows it: prefer a file.", (), said="none needed"
    )
    api_key_file: ReadKeyFile = option(
        "Server", "FILE", "Keys, one a line, each perhaps behind a name and a colon; # begins a comment.", None
    )
    allowed_origins: Origins = option(
        "Server",
        "ORIGIN",
        "Web pages whose scripts may ask, such as https://example.org, or * for all; repeatable.",
        (),
        said="none",
    )
    max_body_size: Size = option(
        "Server", "SIZE", "Most bytes of a request's body.", 16 * 2**20, said="16m", ge=1024, le=2**30
    )
    max_requests_per_minute: Count | None = option(
        "Server", "N", "Most generating requests a minute, of each owner of keys.", None, ge=1, le=2**31
    )
    max_tokens_per_minute: Count | None = option(
        "Server", "N", "Most tokens a minute, prompts and answers, likewise.", None, ge=1, le=2**40
    )
    weights_root: Folder | None = option(
        "Server",
        "FOLDER",
        "Opens the four calls of SGLang that rollouts make; new weights may come from in here.",
        None,
    )
    drain_timeout: float = option(
        "Server", "SECONDS", "How long SIGTERM lets requests finish that were accepted.", 25, ge=0, le=1e6
    )
    log_level: LogLevel = option("Server", "LEVEL", "debug, info, warning, error or critical.", "info")

    @model_validator(mode="after")
    def _a_step_holds_every_running_request(self) -> Self:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"--max-num-batched-tokens {self.max_num_batched_tokens} is less than "
                f"--max-num-seqs {self.max_num_seqs}; each running request needs a token in every step, "
                "so raise the one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _a_name_means_one_thing(self) -> Self:
        names = [*self.served_model_name, *(adapter.name for adapter in self.lora)]
        for number, name in enumerate(names):
            if name in names[:number] and number >= len(self.served_model_name):
                raise ValueError(f"--lora {name}: the name is taken, by the model or by another adapter")
        return self

    @property
    def keys(self) -> tuple[NamedKey, ...]:
        """Every key that opens the server; none: it is open to all. Who has no name is called by the key's place."""
        from_file = self.api_key_file.keys if self.api_key_file else ()
        given = (*(NamedKey(None, key) for key in self.api_key), *from_file)
        return tuple(named.called(f"key-{place}") for place, named in enumerate(given, 1))

    def load_options(self) -> LoadOptions:
        return LoadOptions(
            model=self.model,
            tokenizer=self.tokenizer,
            merge_lora=self.merge_lora,
            lora=self.lora,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            weights=self.weights,
            kv_dtype=self.kv_dtype,
            rope_scaling=self.rope_scaling,
            num_threads=self.threads,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_cache_memory=self.kv_cache_memory,
            debug_poison=self.debug_poison,
            isolation_checks=self.isolation_checks,
            cache_dir=self.cache_dir,
            allow_tokenizer_mismatch=self.allow_tokenizer_mismatch,
        )
