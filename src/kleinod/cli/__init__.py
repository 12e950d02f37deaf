"""The command line: parse, build a request, call, print. Knows no tensors."""
