"""The archive that torch.save writes, looked at before torch maps it: a zip file with a pickle, and a file of numbers
for each storage that the pickle names. torch takes the size of a storage from the pickle and the place from the
archive, and maps whatever lies there; so the two are compared here. No object of the pickle is ever made: a class is
only a name, and what would be called gives a placeholder.
"""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

from model.errors import ModelError

_MOST_PICKLE_BYTES = 1 << 26  # names, shapes and the optimizer's numbers; not the tensors
_ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
}
# What a pickle makes the standard library raise: it interprets bytes, so nearly anything can come of them.
_DAMAGE = (
    *(OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError),
    *(AssertionError, StopIteration),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


class _Placeholder:
    """In the place of whatever a pickle calls or sets."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


class _StorageReader(pickle._Unpickler):
    """Collects what the pickle says of storages: key → bytes. In Python: the one in C sets memory aside for as many
    objects as a pickle says it remembers."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, _module: str, name: str) -> type:
        return type(name, (_Placeholder,), {})

    def persistent_load(self, saved: Any) -> Any:
        match saved:
            case ("storage", type() as kind, str(key), str(), int(number)) if kind.__name__ in _ITEM_BYTES:
                self.sizes[key] = max(self.sizes.get(key, 0), number * _ITEM_BYTES[kind.__name__])
        return _Placeholder()


def check_archive(path: Path) -> None:
    """Raises ModelError for an archive that is packed, has a name or a pickle twice, or a storage of another size than
    its pickle says. What else may be wrong with it, torch says."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive)
            place, *others = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
            if others:
                raise ModelError(path, f"is damaged: it has several pickles, {place} and {others[0]}.")
            if entries[place].file_size > _MOST_PICKLE_BYTES:
                raise ModelError(path, f"its pickle has {entries[place].file_size:,} bytes: this is no model.")
            reader = _StorageReader(io.BytesIO(archive.read(place)))
            reader.load()
    except _DAMAGE as error:
        if isinstance(error, ModelError):
            raise
        return  # torch finds it too, and has the words for it
    prefix = place.removesuffix("data.pkl")
    for key, size in reader.sizes.items():
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None or entry.file_size != size:
            found = "is not there" if entry is None else f"has {entry.file_size:,} bytes"
            raise ModelError(path, f"is damaged: storage {key} has to have {size:,} bytes, but {found}.")


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ModelError(path, f"is damaged: {entry.filename} is packed, which torch.save does not do.")
        if entry.filename in entries:
            raise ModelError(path, f"is damaged: {entry.filename} is there twice.")
        entries[entry.filename] = entry
    return entries
