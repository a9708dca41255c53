"""Fused regions to Triton, and Triton to machine code of an explicit target: no GPU is needed."""
