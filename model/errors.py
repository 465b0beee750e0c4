"""The one error of loading."""

from pathlib import Path


class ModelError(ValueError):
    """A model that cannot be served. The message is one paragraph for the user: the file, the tensor or key, what is
    wrong, and what would be right."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)
        self.problem = problem
