"""The shared encoder: jina-embeddings-v3 models with every task in one process."""

from typing import TYPE_CHECKING

from taskvec.core.embedder import Embedder, Roles
from taskvec.core.registry import shared_encoder
from taskvec.core.remote import RemoteEncoder
from taskvec.core.sagemaker import SageMakerEncoder

if TYPE_CHECKING:
    from taskvec.core.encoder import Encoder

__all__ = [
    "Embedder",
    "Encoder",
    "RemoteEncoder",
    "Roles",
    "SageMakerEncoder",
    "shared_encoder",
]


def __getattr__(name: str) -> object:
    """Encoder, once it is asked for: it needs torch, which alone takes a second to load."""
    if name == "Encoder":
        from taskvec.core.encoder import Encoder  # noqa: PLC0415 - see above

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
