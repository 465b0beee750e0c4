"""The one error of loading."""

from pathlib import Path

_LONGEST = 1000  # characters of a problem


class ModelError(ValueError):
    """A model that cannot be served. The message is one paragraph for the user: the file, the tensor or key, what is
    wrong, and what would be right. Names and values in it are the file's: what a terminal would obey is escaped, and a
    long one loses its middle."""

    def __init__(self, path: Path | str, problem: str) -> None:
        self.path = Path(path)
        self.problem = _printable(problem if len(problem) <= _LONGEST else f"{problem[:700]} … {problem[-297:]}")
        super().__init__(f"{_printable(str(path))}: {self.problem}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
