"""What a program is: types, dims, ops, graphs, their text, their meaning, and the plan they become."""
