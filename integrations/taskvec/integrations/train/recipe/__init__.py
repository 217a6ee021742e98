"""The multilingual starter in the making: its text, its body, its tasks and its figures."""
