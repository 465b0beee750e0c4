"""Why there is no load test to be run: one line for the user. What goes wrong with a single request is no error but a
record with a failure in it."""


class Unusable(Exception):
    """The server does not do what the load test needs, or is not there."""


class BadWorkload(ValueError):
    """A file or an option asks for requests that cannot be made."""
