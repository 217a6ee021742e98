"""Speed and faults of Postgres columns that embed themselves."""
