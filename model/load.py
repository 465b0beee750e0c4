"""From what a user names to a model that runs: which format it is, by its contents; which parts come from where.
Formats are imported when they are chosen: torch takes seconds, and only a .pth file needs it. What is in a file is the
business of `formats/`; what computes it, of `backends.py`."""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from model.backends import build_runner
from model.batch import Runner
from model.chat_template import ChatTemplate
from model.config import ModelConfig
from model.default_model import DEFAULT_MODEL, find_or_fetch
from model.errors import ModelError
from model.formats import minimind_lora, peft
from model.formats.adapter import Adapter, merge
from model.formats.checkpoint import Checkpoint, GenerationDefaults, WeightTensor
from model.formats.json_object import JsonObject
from model.formats.minimind_eras import META_ERAS
from model.formats.minimind_yarn import scaled
from model.options import DEFAULT_MODEL_NAME, AdapterOption, LoadOptions
from model.tokenizer import Tokenizer
from model.tokenizer_match import check_match, ends_of_text, fit_vocabulary

GGUF_MAGIC = b"GGUF"
MINIMIND_MODEL_TYPE = "minimind"
TORCH_MAGICS = (b"PK\x03\x04", b"\x80\x02")  # a zip archive, and the bare pickle that torch wrote before 1.6


class Format(Enum):
    GGUF = "GGUF"
    HUGGING_FACE = "Hugging Face"
    MINIMIND_FOLDER = "MiniMind, as a Hugging Face folder"
    MINIMIND = "MiniMind"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers steps, and all that is needed to talk to it."""

    name: str  # what clients call it unless the user says otherwise
    path: Path
    runner: Runner
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation: GenerationDefaults
    eos_token_ids: frozenset[int]
    config: ModelConfig
    num_parameters: int
    merged: str | None = None  # the adapter that is part of the model
    adapters: tuple[AdapterOption, ...] = ()  # the runner's number 1 is the first

    @property
    def architecture(self) -> str:
        return self.config.architecture


@dataclass(frozen=True, slots=True)
class Parts:
    """What a format gives."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None


def load(options: LoadOptions) -> LoadedModel:
    """Raises ModelError for whatever cannot be served."""
    path = locate(options)
    parts = read_parts(path, options)
    tokenizer = parts.tokenizer
    if not options.allow_tokenizer_mismatch:
        check_match(parts.checkpoint, tokenizer, is_named=options.tokenizer is not None)
    checkpoint = merge_adapter(parts.checkpoint, options)
    return LoadedModel(
        name=DEFAULT_MODEL.name if options.model == DEFAULT_MODEL_NAME else _name_of(path),
        path=path,
        runner=build_runner(checkpoint, options, read_adapters(checkpoint, options)),
        tokenizer=tokenizer,
        chat_template=parts.chat_template,
        generation=checkpoint.generation,
        eos_token_ids=ends_of_text(checkpoint, tokenizer),
        config=checkpoint.config,
        num_parameters=checkpoint.num_parameters,
        merged=options.merge_lora,
        adapters=options.lora,
    )


def read_parts(path: Path, options: LoadOptions) -> Parts:
    """Of the model at `path`, with the tokenizer that the options name. Raises ModelError."""
    parts = read(path, _expanded(options.tokenizer) if options.tokenizer else None)
    checkpoint = with_rope_scaling(parts.checkpoint, options)
    return replace(parts, checkpoint=checkpoint, tokenizer=fit_vocabulary(parts.tokenizer, checkpoint))


def with_rope_scaling(checkpoint: Checkpoint, options: LoadOptions) -> Checkpoint:
    """As the options have it, where they do. Raises ModelError."""
    return scaled(checkpoint) if options.rope_scaling == "minimind-yarn" else checkpoint


def read_pth(path: Path) -> dict[str, WeightTensor]:
    """Every tensor of a PyTorch file, whatever it is of. Raises ModelError."""
    from model.formats import minimind

    return minimind.read_state(path)


def merge_adapter(checkpoint: Checkpoint, options: LoadOptions) -> Checkpoint:
    """With the adapter in it that the options name, if they name one. Raises ModelError."""
    if options.merge_lora is None:
        return checkpoint
    return merge(checkpoint, read_adapter("", _expanded(options.merge_lora), checkpoint))


def read_adapters(checkpoint: Checkpoint, options: LoadOptions) -> list[Adapter]:
    """Those that are to be served beside the model. Raises ModelError."""
    adapters = [read_adapter(option.name, _expanded(option.path), checkpoint) for option in options.lora]
    for adapter in adapters:
        adapter.require_servable()
    return adapters


def read_adapter(name: str, path: Path, checkpoint: Checkpoint) -> Adapter:
    """For that model. By contents: a folder is PEFT's, a file MiniMind's. Raises ModelError."""
    if not path.exists():
        raise ModelError(path, "there is no such file or folder; a LoRA adapter was to be there.")
    if path.is_dir():
        return peft.read(name, path, checkpoint.config)
    if detect_format(path) is not Format.MINIMIND:
        raise ModelError(path, "is no LoRA adapter: neither a .pth file of MiniMind nor a folder of PEFT.")
    has_meta_names = checkpoint.origin in META_ERAS
    return minimind_lora.build(name, path, checkpoint.config, read_pth(path), has_meta_names=has_meta_names)


def locate(options: LoadOptions) -> Path:
    """Where the model is. The default model is fetched if it is not here yet. Raises ModelError."""
    if options.model == DEFAULT_MODEL_NAME:
        return find_or_fetch(options.cache_dir)
    return find_model(_expanded(options.model))


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelError(name, "there is no user of this name, whose home could be meant.") from error


def find_model(path: Path) -> Path:
    """The file or folder that is the model: of a folder with a single GGUF file in it, that file."""
    if not path.exists():
        raise ModelError(path, _missing(path))
    if path.is_file() or (path / "config.json").is_file():
        return path
    if not path.is_dir():
        raise ModelError(path, "is no ordinary file, nor a folder.")
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        found = f"{len(files)} GGUF files; name one of them" if files else "neither config.json nor a GGUF file"
        raise ModelError(path, f"this folder has {found}. A MiniMind checkpoint is named by its .pth file.")
    return files[0]


def _name_of(path: Path) -> str:
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem


def _missing(path: Path) -> str:
    problem = "there is no such file or folder."
    if len(path.parts) == 2 and not path.parent.exists():
        problem += f" A model on the Hugging Face hub is downloaded first: hf download {path} --local-dir {path.name}"
    return problem


def detect_format(path: Path) -> Format:
    """By contents; names say nothing."""
    if path.is_dir():
        is_minimind = JsonObject.read(path / "config.json").values.get("model_type") == MINIMIND_MODEL_TYPE
        return Format.MINIMIND_FOLDER if is_minimind else Format.HUGGING_FACE
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(path, f"cannot be read: {error.strerror}.") from error
    if head.startswith(GGUF_MAGIC):
        return Format.GGUF
    if head.startswith(TORCH_MAGICS):
        return Format.MINIMIND
    hint = " Name the folder that it lies in, with its config.json." if head[8:9] == b"{" else ""
    raise ModelError(path, f"this is neither a GGUF file nor a PyTorch checkpoint.{hint}")


def read(path: Path, tokenizer_folder: Path | None = None) -> Parts:
    """Everything that is in the model's files. Where a tokenizer folder is given, tokenizer and chat template come from
    there instead. Raises ModelError."""
    match detect_format(path):
        case Format.GGUF:
            return _read_gguf(path, tokenizer_folder)
        case Format.HUGGING_FACE | Format.MINIMIND_FOLDER:
            return _with_folder(read_checkpoint(path), tokenizer_folder or path)
        case Format.MINIMIND:
            folder = tokenizer_folder or path.parent
            if not (folder / "tokenizer.json").is_file():
                raise ModelError(folder, "there is no tokenizer.json; --tokenizer FOLDER says where the model's is.")
            return _with_folder(read_checkpoint(path), folder)


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights and their config, without a tokenizer. Raises ModelError."""
    match detect_format(path):
        case Format.GGUF:
            from model.formats import gguf

            return gguf.read(path)
        case Format.HUGGING_FACE:
            from model.formats import huggingface

            return huggingface.read(path)
        case Format.MINIMIND_FOLDER:
            from model.formats import minimind_folder

            return minimind_folder.read(path)
        case Format.MINIMIND:
            from model.formats import minimind

            return minimind.read(path)


def _read_gguf(path: Path, tokenizer_folder: Path | None) -> Parts:
    from model.formats import gguf, gguf_tokenizer
    from model.formats.gguf_container import open_container

    container = open_container(path)
    checkpoint, metadata = gguf.checkpoint_of(container), container.metadata
    if tokenizer_folder:
        return _with_folder(checkpoint, tokenizer_folder)
    return Parts(checkpoint, gguf_tokenizer.build(metadata, path), gguf_tokenizer.chat_template(metadata, path))


def _with_folder(checkpoint: Checkpoint, folder: Path) -> Parts:
    return Parts(checkpoint, Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder))
