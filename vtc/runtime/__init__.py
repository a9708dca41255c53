"""Runs a :class:`~vtc.ir.plan.Plan`: devices, buffers, disk cache, executables. Knows no graph."""
