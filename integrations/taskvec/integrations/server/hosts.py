"""Which names of a machine a request may be for."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def is_for(header: bytes, names: Collection[str]) -> bool:
    """Whether a Host header has an address or one of these names.

    A page of any other name that has been made to lead here, as DNS rebinding does, has its own
    name there. What is no browser may send none.
    """
    try:
        host = urlsplit(f"//{header.decode('latin-1')}").hostname
    except ValueError:
        return False
    return not header or host in names or _is_address(host or "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
