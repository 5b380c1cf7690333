"""What a tokenizer does to text, as figures. Each file is one kind of measure; study.py runs them all."""
