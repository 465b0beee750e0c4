"""What the engine refuses, before anything is accepted; and what a constraint fails with, later."""


class Refused(Exception):
    """A submission that was not accepted; nothing of it is kept."""


class RequestTooLong(Refused, ValueError):
    """Prompt and max_tokens together can never fit, however empty the server is."""


class EngineDead(Refused, RuntimeError):
    """The engine has ended: it is shutting down, or it failed."""

    def __init__(
        self, message: str = "The engine has ended: the server is shutting down, or must be restarted."
    ) -> None:
        super().__init__(message)


class ConstraintFailed(RuntimeError):
    """A constraint cannot go on: its request ends, and nobody else's. The message is for the client."""
