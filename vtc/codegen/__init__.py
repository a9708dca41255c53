"""Fused programs to plans with kernels: decide in Python, print in templates.

A region is traced into named scalars (``trace``, ``scalar``, ``region``), its loops are split,
merged and ordered (``loops``), a family (``pointwise``, ``reduction``, ``matmul``, ``scatter``)
makes a frozen spec of it, and ``render`` prints the spec. ``c`` puts the kernels of a program
together and compiles them.
"""
