"""The log of `lash-tasks up`: one line a record on stderr, its keyed data behind the message."""

from __future__ import annotations

import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
TALKATIVE = ("alembic", "celery.app.trace", "celery.worker.strategy", "httpx", "httpcore")


class KeyedFormatter(logging.Formatter):
    """`time level message key=value …`; what a record carries in `extra=` is its keyed data."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the standard library's
        keyed = [f"{key}={_plain(value)}" for key, value in vars(record).items() if key not in _STANDARD]
        return "  ".join([super().formatMessage(record), " ".join(keyed)]).rstrip()


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def log_to_stderr() -> None:
    """Send the records of this process, from INFO up, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(KeyedFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
