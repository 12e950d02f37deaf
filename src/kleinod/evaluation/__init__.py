"""What a model of icons can draw, scored by a judge, and concept removal with its scores."""
