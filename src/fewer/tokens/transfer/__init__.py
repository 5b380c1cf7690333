"""Giving a model another tokenizer: rows for its new tokens, a folder to load, what it costs and saves."""
