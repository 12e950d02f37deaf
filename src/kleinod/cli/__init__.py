"""The command line: parse, build a request, call, print. Knows no tensors, imports no torch."""

from kleinod.cli.app import app, main

__all__ = ["app", "main"]
