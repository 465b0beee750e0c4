"""hatchling's way to the native backend: the library is built before a wheel is packed or an editable install is made.

Where it cannot be built the install goes on without it, and the server will say so and use torch. Loaded by hatchling
from this file alone, hence the call of `build.py` as a program.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

NATIVE = "model/native"


class NativeBuildHook(BuildHookInterface):
    """The wheel has a library that is loaded through ctypes: for one platform, and for every Python."""

    PLUGIN_NAME = "custom"

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root, NATIVE)
        result = subprocess.run([sys.executable, folder / "build.py"], capture_output=True, text=True, check=False)
        for line in result.stderr.splitlines():
            self.app.display_info(line)
        if result.returncode:
            self.app.display_warning("slotwise is installed without its native CPU backend: torch will compute.")
            return
        (library,) = folder.glob("libslotwise.*")
        build_data["artifacts"].append(f"/{NATIVE}/{library.name}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform()}"


def platform() -> str:
    """As a wheel names this machine; "manylinux" is for those who have proved it."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
