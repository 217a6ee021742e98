"""Where an index is kept: Qdrant or Postgres, embedded or on a server."""
