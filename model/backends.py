"""Which backend computes a model: the native one on a CPU where it can, else torch. Each is imported when it is chosen:
torch takes seconds, and a GGUF file that is served natively never needs it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from model.batch import Runner
from model.errors import ModelError
from model.formats.adapter import Adapter
from model.formats.checkpoint import Checkpoint
from model.options import LoadOptions

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's, the same under WSL, AMD's

log = logging.getLogger(__name__)


def build_runner(checkpoint: Checkpoint, options: LoadOptions, adapters: Sequence[Adapter] = ()) -> Runner:
    """`adapters`: those that slots may be opened with. Raises ModelError where no backend can do what is asked."""
    if options.backend == "torch":
        return _build_torch(checkpoint, options, adapters, "as --backend says")
    if options.device == "cuda":
        if options.backend == "native":
            raise ModelError(checkpoint.path, "the native backend computes on a CPU; --device cuda needs torch.")
        return _build_torch(checkpoint, options, adapters, "for --device cuda")
    if options.backend == "auto" and options.device == "auto" and has_gpu():
        return _build_torch(checkpoint, options, adapters, "on the GPU")
    return _build_native_or_torch(checkpoint, options, adapters)


def has_gpu() -> bool:
    """torch knows; it is asked only where there is a driver."""
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return False
    from model.torch_backend.options import has_cuda

    return has_cuda()


def _build_native_or_torch(checkpoint: Checkpoint, options: LoadOptions, adapters: Sequence[Adapter]) -> Runner:
    from model.native.library import NativeUnavailable

    try:
        return _build_native(checkpoint, options, adapters)
    except NativeUnavailable as error:
        reason = f"the native backend cannot serve it: {error}"
    if options.backend == "native":
        raise ModelError(checkpoint.path, f"{reason}.")
    log.warning("%s: torch computes, for %s", checkpoint.path, reason)
    return _build_torch(checkpoint, options, adapters, f"for {reason}")


def _build_native(checkpoint: Checkpoint, options: LoadOptions, adapters: Sequence[Adapter]) -> Runner:
    from model.native.runner import NativeOptions, NativeRunner

    native_options = NativeOptions(
        dtype=options.dtype,
        weights=options.weights,
        kv_dtype=options.kv_dtype,
        num_threads=options.num_threads,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        kv_cache_memory=options.kv_cache_memory,
        debug_poison=options.debug_poison,
        isolation_checks=options.isolation_checks,
    )
    return NativeRunner(checkpoint, native_options, adapters)


def _build_torch(checkpoint: Checkpoint, options: LoadOptions, adapters: Sequence[Adapter], reason: str) -> Runner:
    """Raises ModelError for what only the native backend has; `reason` is why it is not that one."""
    if options.weights != "auto":
        raise ModelError(
            checkpoint.path, f"--weights {options.weights} needs the native backend, and torch computes, {reason}."
        )
    if options.kv_dtype == "int8":
        raise ModelError(checkpoint.path, f"--kv-dtype int8 needs the native backend, and torch computes, {reason}.")
    from model.torch_backend.runner import TorchOptions, TorchRunner

    torch_options = TorchOptions(
        device=options.device,
        dtype=options.dtype,
        kv_dtype=options.kv_dtype,
        num_threads=options.num_threads,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        kv_cache_memory=options.kv_cache_memory,
        debug_poison=options.debug_poison,
        isolation_checks=options.isolation_checks,
    )
    return TorchRunner(checkpoint, torch_options, adapters)
