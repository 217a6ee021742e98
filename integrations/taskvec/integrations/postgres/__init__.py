"""Postgres columns that embed themselves: attached once, and right from then on."""

from taskvec.integrations.postgres.attaching import Attached, attach, detach
from taskvec.integrations.postgres.failing import Failure, failures, retry
from taskvec.integrations.postgres.shift import Progress
from taskvec.integrations.postgres.worker import Worker

__all__ = ["Attached", "Failure", "Progress", "Worker", "attach", "detach", "failures", "retry"]
