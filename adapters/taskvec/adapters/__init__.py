"""One module per framework: its embedding interface over a shared encoder, nothing else."""
