"""Asking a model about its own tokens: glitch.py (which are broken), adversarial.py (where its cuts mislead it)."""
