"""Serves a model as SageMaker's container contract wants it."""

import os
import threading
from collections.abc import Callable, Mapping

from taskvec.core.encoder import Encoder
from taskvec.integrations.server.app import create_app
from taskvec.integrations.server.coming import Coming
from taskvec.integrations.server.logs import logging_to_stderr
from taskvec.integrations.server.running import HttpServer, open_socket
from taskvec.integrations.server.settings import HOST, Settings


def serve_sagemaker(
    environ: Mapping[str, str] | None = None,
    *,
    on_listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the model of an environment at all addresses of port 8080, until SIGTERM.

    It answers from the start, with 503 until the model is loaded. SageMaker reaches it in a network
    of its own, and sends no keys: there are none.

    Args:
        environ: settings; None takes the process's own. docs/sagemaker.md lists them.
        on_listening: called with the URL, once it answers.

    Raises InputError for a setting that cannot be used, CheckpointError where there is no model.
    """
    settings = Settings.read(os.environ if environ is None else environ)
    listening = open_socket(HOST, settings.port, public=True)
    with listening, logging_to_stderr(settings.log_level):
        app = Coming()
        server = HttpServer(
            app,
            listening,
            drain_s=settings.drain_s,
            grace_s=settings.grace_s,
            on_listening=on_listening,
        )
        loading = Loading(settings, app, server)
        loading.start()
        try:
            server.serve_until_told()
        finally:
            loading.finish()
    if loading.error is not None:
        raise loading.error


class Loading(threading.Thread):
    """Loads a model while its server answers, and ends the server where that fails.

    error: why.
    """

    def __init__(self, settings: Settings, app: Coming, server: HttpServer) -> None:
        super().__init__(name="taskvec-loading")
        self._settings = settings
        self._app = app
        self._server = server
        self._encoder: Encoder | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Load it, let each task run once, and open the application."""
        settings = self._settings
        try:
            encoder = self._encoder = Encoder.load(
                settings.model,
                device=settings.device,
                dtype=settings.dtype,
                queue_tokens=settings.queue_tokens,
            )
            tasks = [None, *encoder.tasks]
            encoder.encode(["ready"] * len(tasks), task=tasks)
            self._app.become(
                create_app(
                    encoder,
                    names=(settings.name,),
                    limits=settings.limits,
                    default_task=settings.default_task,
                )
            )
        except Exception as error:  # noqa: BLE001 - raised again by who waits for this thread
            self.error = error
            self._server.should_exit = True

    def finish(self) -> None:
        """Wait for its end, and close what it loaded."""
        self.join()
        if self._encoder is not None:
            self._encoder.close()
