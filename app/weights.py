"""Which folder new weights may come from, and how they become a runner. Opens nothing outside it.

A path is taken as a client on this machine says it, or as one inside the folder. What counts is where it leads once all
links are followed; that of each file in a model's folder, too. (Who can write to the folder while a model is read could
still have another file read as a model: this is a fence for clients of the API, not for users of the machine.)
"""

from dataclasses import dataclass
from pathlib import Path

from app.api.errors import WeightsRefused
from model.batch import RunnerInfo
from model.config import ModelConfig
from model.errors import ModelError
from model.options import LoadOptions
from model.reload import NewWeights, load_weights

NOT_THERE = "there is no such model in the folder that --weights-root names."


@dataclass(frozen=True, slots=True)
class WeightsFolder:
    root: Path
    config: ModelConfig  # this and the rest: of the model that is served
    info: RunnerInfo
    options: LoadOptions

    def load(self, name: str) -> NewWeights:
        """Takes as long as loading takes. Raises WeightsRefused."""
        path = self.find(name)
        try:
            return load_weights(path, self.config, self.info, self.options)
        except ModelError as error:
            raise WeightsRefused(error.problem) from error

    def find(self, name: str) -> Path:
        """Raises WeightsRefused; what is not there and what is outside are told apart by nobody."""
        try:
            path = (self.root / name).resolve(strict=True)
            leads_out = any(not self._holds(one) for one in (path, *(path.iterdir() if path.is_dir() else ())))
        except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle; ValueError: a null byte
            raise WeightsRefused(NOT_THERE) from None
        if leads_out:
            raise WeightsRefused(NOT_THERE)
        return path

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())
