"""What a user may ask of the native backend, and what that means for this model on this machine.

What the backend does not have raises NativeUnavailable, for torch may have it; what contradicts itself is a ModelError.
"""

from dataclasses import dataclass
from pathlib import Path

from model.cpu import num_allowed_cores, num_usable_cores
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.native.library import LIBRARY, NativeUnavailable
from model.native.structs import Checks, Encoding, KVType
from model.options import DTypeName, IsolationChecksName, KVDTypeName, WeightsName

KV_TYPES = {"auto": KVType.BF16, "bfloat16": KVType.BF16, "float32": KVType.F32, "int8": KVType.INT8}
KV_NAMES = {KVType.F32: "float32", KVType.BF16: "bfloat16", KVType.INT8: "int8"}
CHECKS: dict[IsolationChecksName, Checks] = {"off": Checks.OFF, "canary": Checks.CANARY, "debug": Checks.DEBUG}
DTYPES = {"float32": Encoding.F32, "bfloat16": Encoding.BF16}
FLOATS = ("F32", "F16", "BF16")
# The encodings of files that the library has, too: their bits stay as they are.
KEPT = {
    "F32": Encoding.F32,
    "BF16": Encoding.BF16,
    "Q8_0": Encoding.Q8,
    "Q4_0": Encoding.Q4_0,
    "Q4_1": Encoding.Q4_1,
}
INT4 = (Encoding.Q4_0, Encoding.Q4_1)  # whichever of them is nearer to a tensor's values
GROUP = 32  # columns that share a scale, in every encoding but F32 and BF16


@dataclass(frozen=True, slots=True)
class NativeOptions:
    dtype: DTypeName = "auto"
    weights: WeightsName = "auto"
    kv_dtype: KVDTypeName = "auto"  # auto: bfloat16
    num_threads: int | None = None  # None: the physical cores this process may use
    max_model_len: int | None = None  # None: what the model was made for
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 256
    kv_cache_memory: int | None = None  # bytes; None: half of what is free
    debug_poison: bool = False
    isolation_checks: IsolationChecksName = "off"
    instruction_set: str | None = None  # None: the best this processor has
    library: Path = LIBRARY


def choose_kv_type(name: KVDTypeName) -> KVType:
    if name not in KV_TYPES:
        raise NativeUnavailable(f"it has no KV cache in {name}, only in float32, bfloat16 or int8")
    return KV_TYPES[name]


def check_weights(options: NativeOptions, checkpoint: Checkpoint) -> None:
    """Raises where this model's weights cannot become what is asked for."""
    if options.weights != "auto":
        _check_quantisation(options, checkpoint)
    if options.dtype not in ("auto", *DTYPES):
        raise NativeUnavailable(f"it has no weights in {options.dtype}, only in float32 or bfloat16")


def _check_quantisation(options: NativeOptions, checkpoint: Checkpoint) -> None:
    if options.dtype != "auto":
        problem = f"--weights {options.weights} and --dtype {options.dtype} are two answers to one question; leave one."
        raise ModelError(checkpoint.path, problem)
    quantised = {tensor.encoding for tensor in checkpoint.weights.values()} - {*FLOATS}
    if quantised:
        raise ModelError(
            checkpoint.path,
            f"is quantised already ({', '.join(sorted(quantised))}); --weights {options.weights} is for models in "
            "float32, float16 or bfloat16. Without it the file's own weights are served.",
        )


def choose_encodings(tensor: WeightTensor, options: NativeOptions, *, is_vocabulary: bool) -> tuple[Encoding, ...]:
    """Of a matrix: what it is to be kept in, or several, of which the nearest is to be taken. `is_vocabulary`: it is
    the embedding or the output layer, which suffer most from few bits."""
    wanted = _wanted(tensor, options, is_vocabulary=is_vocabulary)
    has_groups = not set(wanted) & {*DTYPES.values()}
    return wanted if tensor.shape[-1] % GROUP == 0 or not has_groups else (Encoding.BF16,)


def _wanted(tensor: WeightTensor, options: NativeOptions, *, is_vocabulary: bool) -> tuple[Encoding, ...]:
    if options.dtype != "auto":
        return (DTYPES[options.dtype],)
    if options.weights != "auto":
        return INT4 if options.weights == "int4" and not is_vocabulary else (Encoding.Q8,)
    if tensor.encoding in FLOATS:
        return (Encoding.BF16,)
    return (KEPT.get(tensor.encoding, Encoding.Q8),)


def choose_num_threads(asked: int | None) -> int:
    return asked or num_usable_cores()


def pins_threads(num_threads: int) -> bool:
    """Where each thread has a core and no core is left over. With fewer threads the system places them better than we
    could: other processes of the kind would all choose the same first cores."""
    return num_threads == num_allowed_cores()
