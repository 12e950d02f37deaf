"""The four components as PyTorch modules; they know nothing about files."""
