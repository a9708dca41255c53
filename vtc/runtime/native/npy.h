/* Tensors as .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), little-endian and row-major. */
#ifndef NPY_H
#define NPY_H

#include "vtc_runtime.h"

/* Read a file into new memory (`data` is to be freed). Gives null, or why it cannot be read. */
const char *npy_read(const char *path, vtc_tensor *out);

/* The same for a word of a command line: the path of a file, or a number (2.5), which becomes a 0-d f64. */
const char *npy_word(const char *word, vtc_tensor *out);

/* Write a tensor of the CPU. Gives null, or why it cannot be written. */
const char *npy_write(const char *path, const vtc_tensor *tensor);

#endif
