"""Where components are while a model runs, and how they are run: offloading, compiling, graphs.

Knows nothing about their formulas. What is for accelerators has not been measured on one yet
(docs/speed-gpu.md).
"""
