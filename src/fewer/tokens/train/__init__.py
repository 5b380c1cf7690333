"""Training tokenizers: recipe.py names the axes and the points, each other file is one value of an axis."""
