"""Every error that taskvec raises on purpose.

TaskvecError
├── InputError (ValueError)         a text, span or option that cannot be served
│   ├── TaskError                   a task that the model does not have
│   ├── DimensionError              a dim that the model was not trained for
│   ├── LengthError                 a text longer than the model's context
│   └── SizeError                   more at once than a server takes
├── CheckpointError                 weights that are missing, broken or of another model
├── StoreError                      a database or index that cannot be used
│   ├── SchemaError                 tables or collections that do not fit
│   └── FingerprintError            vectors of another model, task or dim
├── SyncError                       a column or collection that could not be brought up to date
├── BusyError                       a full queue, or an encoder that is closed
└── MissingExtraError (ImportError) an optional package that is not installed
"""

from typing import NamedTuple


class TaskvecError(Exception):
    """Base of all errors raised by taskvec."""


class InputError(TaskvecError, ValueError):
    """A text, span or option that cannot be served."""


class TaskError(InputError):
    """A task that the model does not have."""


class DimensionError(InputError):
    """A dim that the model was not trained for."""


class LengthError(InputError):
    """A text longer than the model's context, where truncation was not wanted."""


class SizeError(InputError):
    """More texts, spans, tokens or bytes at once than a server takes in one request."""


class CheckpointError(TaskvecError):
    """Weights that are missing, broken or of another model."""


class StoreError(TaskvecError):
    """A database or index that cannot be used."""


class SchemaError(StoreError):
    """Tables or collections that do not fit what is to be stored."""


class FingerprintError(StoreError):
    """Stored vectors were made by another model, task or dim."""


class SyncError(TaskvecError):
    """A column or collection that could not be brought up to date."""


class BusyError(TaskvecError):
    """The encoder takes no more work: its queue is full, or it is closed."""


class MissingExtraError(TaskvecError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'taskvec[{extra}]'")


class Status(NamedTuple):
    """What an error means outside Python."""

    http: int
    exit_code: int


STATUS: dict[type[TaskvecError], Status] = {
    InputError: Status(422, 2),
    CheckpointError: Status(500, 2),
    FingerprintError: Status(409, 2),
    StoreError: Status(503, 2),
    SyncError: Status(500, 1),
    BusyError: Status(429, 1),
    MissingExtraError: Status(501, 2),
    TaskvecError: Status(500, 1),
}


# What a server's reply calls an error that its client has to tell from others (`error.code`).
CODES: dict[str, type[InputError]] = {
    "context_length_exceeded": LengthError,
    "request_too_large": SizeError,
}


def status_of(error: TaskvecError) -> Status:
    """The HTTP status and exit code of an error: its own, or its nearest ancestor's."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
