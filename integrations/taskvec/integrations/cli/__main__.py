"""`python -m taskvec.integrations.cli` is the `taskvec` command."""

import sys

from taskvec.integrations.cli import main

sys.exit(main())
