"""The world of icons that the built-in model is trained on: scenes, edits and their captions."""
