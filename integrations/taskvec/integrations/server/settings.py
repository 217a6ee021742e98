"""The settings of a container, which come from its environment alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.core.errors import InputError
from taskvec.integrations.ports import PORT, port_of
from taskvec.integrations.server.keys import OF_CLIENTS, VARIABLE
from taskvec.integrations.server.service import Limits
from taskvec.integrations.server.weights import FILES, check_folder, check_source

HOST = "0.0.0.0"  # noqa: S104 - SageMaker reaches it in a network of its own
MODEL_FOLDER = "/opt/ml/model"
LEVELS = ("debug", "info", "warning", "error")
PREFIX = "TASKVEC_"
# SageMaker waits 60 s for a reply, and batch transform an hour at most.
DEADLINE_S, BATCH_DEADLINE_S = 55.0, 3600.0
# SIGKILL comes 30 s after SIGTERM, and the server takes up to 4 s beside it.
GRACE_S = 24.0
MEBIBYTE = 1 << 20
# Batch transform fills a request with lines, 6 MB of them unless told otherwise: a file that is
# one's own. So many texts of dim 1024 take 512 MiB.
BATCH_ITEMS = 1 << 17


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text[:16]) < 1 << 40:
        raise ValueError("expected a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError("expected a number of seconds above 0")
    return value


def _seconds_from_0(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError("expected a number of seconds from 0")
    return value


def _level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError(f"expected one of {LEVELS}")
    return text


LIMITS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "TASKVEC_MAX_BODY": ("body_bytes", _count),
    "TASKVEC_MAX_BODIES": ("bodies_bytes", _count),
    "TASKVEC_MAX_ITEMS": ("items", _count),
    "TASKVEC_MAX_TOKENS": ("tokens", _count),
    "TASKVEC_MAX_REQUESTS": ("requests", _count),
    "TASKVEC_DEADLINE": ("deadline_s", _seconds),
    "TASKVEC_PAUSE": ("pause_s", _seconds),
}
OTHERS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "TASKVEC_NAME": ("name", str),
    "TASKVEC_DEVICE": ("device", str),
    "TASKVEC_DTYPE": ("dtype", str),
    "TASKVEC_DEFAULT_TASK": ("default_task", str),
    "TASKVEC_MAX_QUEUED_TOKENS": ("queue_tokens", _count),
    "TASKVEC_DRAIN": ("drain_s", _seconds_from_0),
    "TASKVEC_GRACE": ("grace_s", _seconds),
    "TASKVEC_LOG_LEVEL": ("log_level", _level),
}
WITH_KEYS = (
    "SageMaker sends no keys; to serve with some elsewhere, `docker run --entrypoint taskvec "
    f"-e {VARIABLE}=… IMAGE serve starter --host 0.0.0.0`"
)
# Read elsewhere: by `model_of`, and by the command line.
BESIDE = ("TASKVEC_MODEL", "TASKVEC_DEBUG")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a container serves. model: a name or folder, as `Encoder.load` takes it."""

    model: str
    limits: Limits
    port: int = PORT
    name: str = "taskvec"
    device: str = "auto"
    dtype: str = "auto"
    default_task: str | None = None
    queue_tokens: int | None = None
    drain_s: float = 0.0
    grace_s: float = GRACE_S
    log_level: str = "info"

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings of an environment. An empty variable is one that is not there.

        Raises InputError for a variable that cannot be read, or begins as ours and is none of
        them; CheckpointError where there is no model.
        """
        known = (*BESIDE, *OTHERS, *LIMITS)
        for name in environ:
            if name in {VARIABLE, OF_CLIENTS}:
                raise InputError(f"{name} is no setting of the container: {WITH_KEYS}")
            if name.startswith(PREFIX) and name not in known:
                raise InputError(f"{name} is no setting of the container: use {sorted(known)}")
        return cls(
            model=model_of(environ),
            limits=_limits(environ),
            port=port_of(environ),
            **_found(OTHERS, environ),
        )


def model_of(environ: Mapping[str, str]) -> str:
    """TASKVEC_MODEL, or else the folder that SageMaker unpacks a model into.

    Raises CheckpointError for a folder without a checkpoint, InputError for a server's URL.
    """
    chosen = environ.get("TASKVEC_MODEL")
    if chosen:
        check_source(chosen, "TASKVEC_MODEL")
        return chosen
    folder = Path(environ.get("SM_MODEL_DIR") or MODEL_FOLDER)
    check_folder(
        folder,
        found="pack what is in {0.name!r}, and not that folder",
        lacking=f"pack {FILES}, at the top of model.tar.gz; or set TASKVEC_MODEL, as to 'starter'",
    )
    return str(folder)


def _limits(environ: Mapping[str, str]) -> Limits:
    found = _usual(environ) | _found(LIMITS, environ)
    # A larger body than usual makes room for itself.
    room = max(found.get("body_bytes", 0), Limits.bodies_bytes)
    return Limits(**({"bodies_bytes": room} | found))


def _usual(environ: Mapping[str, str]) -> dict[str, Any]:
    """Limits that fit what SageMaker does with the container."""
    if environ.get("SAGEMAKER_BATCH", "").lower() != "true":
        return {"deadline_s": DEADLINE_S}
    payload = environ.get("SAGEMAKER_MAX_PAYLOAD_IN_MB", "")
    size = int(payload) * MEBIBYTE if payload.isdecimal() else 0
    body = max(size, Limits.body_bytes)
    return {
        "deadline_s": BATCH_DEADLINE_S,
        "body_bytes": body,
        "items": BATCH_ITEMS,
        "tokens": body,  # a token is a byte or more
    }


def _found(
    table: Mapping[str, tuple[str, Callable[[str], Any]]], environ: Mapping[str, str]
) -> dict[str, Any]:
    values = {field: _read(name, environ, read) for name, (field, read) in table.items()}
    return {field: value for field, value in values.items() if value is not None}


def _read(name: str, environ: Mapping[str, str], read: Callable[[str], Any]) -> Any:
    text = environ.get(name, "").strip()
    try:
        return read(text) if text else None
    except ValueError as error:
        raise InputError(f"{name} is {text!r}: {error}") from None
