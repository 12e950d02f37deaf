"""What makes loaded components faster, or smaller, on an accelerator, without knowing their maths.

Compiled blocks, recorded graphs, blocks streamed from pinned memory. Nothing in here has been
measured on an accelerator yet (docs/speed-gpu.md).
"""
