"""Documents: read from files, and cut into chunks whose vectors know their surroundings."""

# Of a chunk, where nothing else is said.
DEFAULT_CHARACTERS = 600
