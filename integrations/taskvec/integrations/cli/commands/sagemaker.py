"""`taskvec sagemaker`: what SageMaker runs in a container."""

import argparse
import http.client
import os
import sys

from taskvec.core.errors import BusyError
from taskvec.integrations.ports import port_of

PING_S = 2.0


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal, or say whether a server of this machine is ready."""
    return _ping() if arguments.action == "ping" else _serve()


def _serve() -> int:
    from taskvec.integrations.server import serve_sagemaker

    serve_sagemaker(on_listening=_say)
    return 0


def _ping() -> int:
    """0 where it is ready. Raises BusyError, whose exit code is 1, where it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(os.environ), timeout=PING_S)
    try:
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise BusyError(f"no server answers at port {connection.port}: {error}") from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise BusyError(f"the server at port {connection.port} is not ready: {status}")
    return 0


def _say(url: str) -> None:
    sys.stdout.write(f"serving /ping and /invocations at {url}\n")
    sys.stdout.flush()
