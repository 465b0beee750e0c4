"""Who may ask, from which web pages, and how much at once: what the middleware in front of the routes is told."""

from dataclasses import dataclass

from app.api.body_limit import MAX_BODY, SECONDS_TO_SEND


@dataclass(frozen=True, slots=True)
class Access:
    keys: tuple[tuple[str, str], ...] = ()  # each key's owner, and the key; none: everybody may ask
    origins: tuple[str, ...] = ()  # of foreign web pages whose scripts may ask; "*": all
    max_body: int = MAX_BODY  # bytes
    seconds_to_send: float = SECONDS_TO_SEND  # … of a small body
    max_requests_per_minute: int | None = None  # of each owner; None: as many as they like
    max_tokens_per_minute: int | None = None


OPEN_TO_ALL = Access()
