"""The library of this checkout, for tests that need it."""

import pytest

from model.native.library import LIBRARY, NativeLibrary, NativeUnavailable


def reason_against() -> str:
    """Why the library cannot be used; empty where it can."""
    try:
        NativeLibrary.open()
    except NativeUnavailable as error:
        return f"{LIBRARY.name}: {error}"
    return ""


needs_library = pytest.mark.skipif(bool(reason_against()), reason=reason_against())
