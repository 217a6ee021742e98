"""Where the server of a container listens; apart from it, since its health is asked for often."""

from collections.abc import Mapping

from taskvec.core.errors import InputError

PORT = 8080
VARIABLE = "SAGEMAKER_BIND_TO_PORT"


def port_of(environ: Mapping[str, str]) -> int:
    """8080, or what SageMaker tells one of several containers. Raises InputError for no port."""
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return PORT
    if not text.isdecimal() or not 0 <= int(text[:16]) < 1 << 16:
        raise InputError(f"{VARIABLE} is {text!r}: expected a port from 0 to 65535")
    return int(text)
