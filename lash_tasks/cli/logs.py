"""What the log is to a command: of `up` one line a record with its keyed data, of every other its warnings."""

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


class BriefFormatter(logging.Formatter):
    """The message alone: a command says in its own words what came of it."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def log_to_stderr(level: int, formatter: logging.Formatter) -> None:
    """Send the records of this process, from `level` up, to stderr; a second call takes over."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
