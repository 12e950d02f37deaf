"""Code for one kind of processor, compiled where the package is built; it knows only tensors."""
