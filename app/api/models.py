"""GET /v1/models: the model served, under each of its names, and its adapters, each as a model beside it."""

from dataclasses import dataclass

from fastapi import APIRouter

from app.api.schemas.resources import Model, ModelList
from app.api.served import ServedModel


@dataclass(frozen=True, slots=True)
class Models:
    served: ServedModel

    def router(self) -> APIRouter:
        router = APIRouter(tags=["models"])
        router.add_api_route("/v1/models", self.list, methods=["GET"])
        router.add_api_route("/v1/models/{name:path}", self.retrieve, methods=["GET"])
        return router

    async def list(self) -> ModelList:
        return ModelList(data=[self._model(name) for name in (*self.served.names, *self.served.adapter_names)])

    async def retrieve(self, name: str) -> Model:
        self.served.require(name)
        return self._model(name)

    def _model(self, name: str) -> Model:
        number = self.served.adapter_of(name)
        return Model(
            id=name,
            created=self.served.created,
            root=self.served.adapters[number - 1].root if number else self.served.root,
            parent=self.served.name if number else None,
            max_model_len=self.served.max_model_len,
        )
