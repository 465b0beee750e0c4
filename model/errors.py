"""The one error of loading, and that of writing."""

from pathlib import Path

_LONGEST = 1000  # characters of a path, and of a problem


class ModelError(ValueError):
    """A model that cannot be served. The message is one paragraph for the user: the file, the tensor or key, what is
    wrong, and what would be right. Names and values in it are the file's: what a terminal would obey is escaped, and a
    long one loses its middle."""

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = shown(problem)
        super().__init__(f"{shown(str(path))}: {self.problem}")


class ExportError(ValueError):
    """A folder that is not written to. The message names it and says what would be right."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{shown(str(path))}: {shown(problem)}")


def shown(text: str) -> str:
    """A file's text as a terminal may have it. Cut twice: what is escaped is longer, and what is enormous need not be
    escaped."""
    return _shortened("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _shortened(text)))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:700]} … {text[-297:]}"
