"""Whose fault an error of the server is: that of a row, or of what all rows share."""

import psycopg

from taskvec.integrations.postgres.registry import MovedError

# Where nobody but a lost connection need be at fault.
BROKEN = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
# What is over by itself: somebody's lock, or an administrator's pg_cancel_backend.
PASSING = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.QueryCanceled,
)
# What this role's rights, or a server that only reads, do not allow.
DENIED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
# Classes of SQLSTATE: connections, read-only transactions, rollbacks, resources such as the disk,
# operators, the system. A limit of the program (54) is not among them: one long text may reach it.
OF_SERVER = ("08", "25", "40", "53", "57", "58")
# A schema, another name or a privilege that a statement lacks.
OF_STATEMENT = ("3F", "42")


def blameless(error: BaseException) -> bool:
    """Whether an error is no row's fault, so that nothing is gained by trying rows one by one."""
    if isinstance(error, (MovedError, *PASSING)):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.diag.sqlstate is None:
        return isinstance(error, BROKEN)
    kind = error.diag.sqlstate[:2]
    # With a context it comes from a function, which may be called for one row alone.
    return kind in OF_SERVER or (kind in OF_STATEMENT and error.diag.context is None)
