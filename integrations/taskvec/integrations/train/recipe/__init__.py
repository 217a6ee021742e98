"""The multilingual starter in the making: its text, its pieces and its distilled body."""
