"""Postgres columns that embed themselves: attached once, and right from then on."""

from taskvec.integrations.postgres.altering import Altered, abandon, alter
from taskvec.integrations.postgres.attaching import Attached, attach, detach
from taskvec.integrations.postgres.failing import Failure, failures, retry
from taskvec.integrations.postgres.granting import grant
from taskvec.integrations.postgres.indexes import index_first_pass
from taskvec.integrations.postgres.monitoring import Status, status
from taskvec.integrations.postgres.searching import Found, search
from taskvec.integrations.postgres.served import Progress
from taskvec.integrations.postgres.swapping import swap
from taskvec.integrations.postgres.worker import Worker

__all__ = [
    "Altered",
    "Attached",
    "Failure",
    "Found",
    "Progress",
    "Status",
    "Worker",
    "abandon",
    "alter",
    "attach",
    "detach",
    "failures",
    "grant",
    "index_first_pass",
    "retry",
    "search",
    "status",
    "swap",
]
