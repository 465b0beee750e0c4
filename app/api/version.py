"""GET /version: which slotwise this is, what it serves, and on what."""

import platform
from dataclasses import dataclass

from fastapi import APIRouter

from app.api.schemas.resources import Version
from app.api.served import ServedModel
from app.version import installed_version
from model.batch import RunnerInfo


@dataclass(frozen=True, slots=True)
class Versions:
    served: ServedModel
    info: RunnerInfo

    def router(self) -> APIRouter:
        router = APIRouter(tags=["operation"])
        router.add_api_route("/version", self.get, methods=["GET"])
        return router

    async def get(self) -> Version:
        return Version(
            version=installed_version(),
            model=self.served.name,
            system_fingerprint=self.served.system_fingerprint,
            backend=self.info.backend,
            device=self.info.device,
            instruction_set=self.info.instruction_set or None,
            num_threads=self.info.num_threads,
            weights=self.info.dtype,
            kv_cache=self.info.kv_dtype,
            batch_invariant=self.served.is_batch_invariant,
            batch_invariance_remark=self.served.invariance_remark,
            max_model_len=self.served.max_model_len,
            python=platform.python_version(),
            platform=f"{platform.system()} {platform.machine()}",
        )
