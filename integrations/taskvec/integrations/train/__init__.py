"""Training: the packaged starter checkpoint, its five LoRAs, and the figures in its model card."""
