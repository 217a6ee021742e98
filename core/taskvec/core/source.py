"""Where a model comes from: the packaged starter, a folder, or the Hugging Face hub."""

import re
from pathlib import Path

from taskvec.core.errors import CheckpointError

STARTER = "starter"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Never *.bin, *.pt or *.py: nothing that could run code is even downloaded.
HUB_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*/adapter_config.json",
]


def find(source: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: "starter", a folder, or a hub id such as jinaai/jina-embeddings-v3.

    A hub model is downloaded once; without a network its cached copy is used. Raises
    CheckpointError when there is none.
    """
    if source == STARTER:
        return Path(__file__).parent / "starter"
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists():
            raise CheckpointError(f"{folder} is a file: give the folder that holds config.json")
    except (OSError, RuntimeError, TypeError, ValueError):
        pass  # no path at all: a name too long, a NUL, the home of nobody
    if isinstance(source, str) and HUB_ID.fullmatch(source):
        return _download(source, revision)
    if isinstance(source, str) and source.startswith(("http://", "https://", "sagemaker://")):
        raise CheckpointError(
            f"{source} is a server: use RemoteEncoder, SageMakerEncoder or shared_encoder for it"
        )
    raise CheckpointError(
        f"no model {str(source)!r}: give 'starter', a folder, a hub id such as "
        "'jinaai/jina-embeddings-v3', or, to an adapter, a server's URL, as 'http://…' or 'sagemaker://…'"
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, rarely needed
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except RevisionNotFoundError:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub") from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name} is neither a folder here, nor in the hub's cache, nor can the hub be reached"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{name} cannot be downloaded: {reason}") from error
