"""What a program is.

Types, dims, ops, graphs, their text, their meaning, and the plan they become.
"""
