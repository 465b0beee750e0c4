"""Files that are read whole: ordinary ones, of a size that such files have. A pipe never ends, and neither does
/dev/zero. What is in a file is not known here."""

import stat
from pathlib import Path

from model.errors import ModelError

_MOST_BYTES = 1 << 27  # the largest tokenizer.json that people serve has a quarter of that


def check_ordinary(path: Path) -> int:
    """Its size. Raises OSError for a file that is not there, ModelError for a pipe, a device, a socket."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(path, f"cannot be read: it is no ordinary file but a {_kind(status.st_mode)}.")
    return status.st_size


def read_whole(path: Path) -> bytes:
    """Raises OSError for a file that cannot be read, ModelError for one that should not be."""
    size = check_ordinary(path)
    if size > _MOST_BYTES:
        raise ModelError(path, f"cannot be read: it has {size:,} bytes, and at most {_MOST_BYTES:,} are read.")
    return path.read_bytes()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
