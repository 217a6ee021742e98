"""One module per command; each has `run(arguments)`, which returns the exit code."""
