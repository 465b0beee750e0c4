"""Which slotwise this is."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The version of the installed distribution; a source tree that was never installed has none."""
    try:
        return version("slotwise")
    except PackageNotFoundError:
        return "(source tree)"
