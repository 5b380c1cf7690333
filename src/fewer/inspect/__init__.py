"""What goes on inside a model: heads that park on the first token, passages that an answer rests on."""
