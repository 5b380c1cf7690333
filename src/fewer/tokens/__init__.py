"""The tokenizer room: measuring, training and transferring tokenizers, and exact bytes. Imports nothing by itself."""
