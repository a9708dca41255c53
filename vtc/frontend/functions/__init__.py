"""The user functions, a file per family: promotion, broadcasting, defaults; then one op or several.

They have PyTorch's names and arguments; what takes a tensor first is also a method (``methods``).
Nothing here knows what a tensor is made of: ``dispatch`` runs, records and writes.
"""
