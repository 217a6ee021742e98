"""The shared encoder: jina-embeddings-v3 models with every task in one process."""

from taskvec.core.embedder import Embedder, Roles
from taskvec.core.encoder import Encoder
from taskvec.core.registry import shared_encoder
from taskvec.core.remote import RemoteEncoder

__all__ = ["Embedder", "Encoder", "RemoteEncoder", "Roles", "shared_encoder"]
