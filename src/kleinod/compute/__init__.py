"""How a device computes: GEMM, attention, fused epilogues. Knows no model."""
