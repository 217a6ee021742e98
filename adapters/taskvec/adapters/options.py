"""Options that adapters do not have, but users look for."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

NO_KEY = "no option here: give embedder=RemoteEncoder(url, api_key=…), or set TASKVEC_API_KEY"
HIDDEN = "…"  # for the key: pydantic shows what was given


def refuse_key(adapter: type, data: Any) -> Any:
    """What an adapter is made of, unless it has a key: one belongs to an encoder.

    Raises ValidationError, which says where the key goes and does not show it.
    """
    if not isinstance(data, dict) or "api_key" not in data:
        return data
    details = InitErrorDetails(
        type=PydanticCustomError("taskvec", NO_KEY), loc=("api_key",), input=HIDDEN
    )
    raise ValidationError.from_exception_data(adapter.__name__, [details])
