"""What the engine refuses, before anything is accepted; and what a constraint fails with, later."""


class Refused(Exception):
    """A submission that was not accepted; nothing of it is kept."""


class RequestTooLong(Refused, ValueError):
    """Prompt and max_tokens together can never fit, however empty the server is."""


class TryAgain(Refused):
    """There is no room now; there will be, and `retry_after_s` is when to come again."""

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(TryAgain):
    """More requests wait than may, or longer ones."""


class ShuttingDown(TryAgain):
    """The server ends when what it has accepted is done, and accepts no more."""

    def __init__(self, message: str = "The server is shutting down and takes no more requests.") -> None:
        super().__init__(message)


class EngineDead(TryAgain, RuntimeError):
    """The engine has ended: it is shutting down, or it failed."""

    def __init__(
        self, message: str = "The engine has ended: the server is shutting down, or must be restarted."
    ) -> None:
        super().__init__(message)


class ConstraintFailed(RuntimeError):
    """A constraint cannot go on: its request ends, and nobody else's. The message is for the client."""
