"""An encoder behind HTTP: Jina's, OpenAI's and SageMaker's API, late chunking, health, metrics."""

from taskvec.core.errors import MissingExtraError

try:
    from taskvec.integrations.server.app import create_app
    from taskvec.integrations.server.running import serve
    from taskvec.integrations.server.sagemaker import serve_sagemaker
    from taskvec.integrations.server.service import Limits
except ModuleNotFoundError as error:
    # A module of taskvec itself that is missing is a fault, not an extra to install.
    if (error.name or "").partition(".")[0] == "taskvec":
        raise
    raise MissingExtraError("taskvec.integrations.server", "server") from error

__all__ = ["Limits", "create_app", "serve", "serve_sagemaker"]
