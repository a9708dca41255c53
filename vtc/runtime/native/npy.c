#include "npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* bfloat16 is no type of NumPy: files have it as two bytes of no kind. */
static const struct { const char *name; int32_t dtype, bytes; } TYPES[] = {
    {"|b1", VTC_BOOL, 1}, {"|u1", VTC_U8, 1}, {"|i1", VTC_I8, 1}, {"<i2", VTC_I16, 2}, {"<i4", VTC_I32, 4}, {"<i8", VTC_I64, 8}, {"<f2", VTC_F16, 2},
    {"<V2", VTC_BF16, 2}, {"|V2", VTC_BF16, 2}, {"<f4", VTC_F32, 4}, {"<f8", VTC_F64, 8}, {"<c8", VTC_C64, 8}, {"<c16", VTC_C128, 16},
    {"|V1", VTC_F8E4M3, 1}, {"|V1", VTC_F8E5M2, 1}};
enum { KINDS = sizeof TYPES / sizeof *TYPES, LARGEST = 65536 };

/* What follows `'key': ` in a header. */
static const char *value_of(const char *header, const char *key) {
    const char *at = strstr(header, key);
    at = at ? strchr(at + strlen(key), ':') : NULL;
    return at ? at + 1 + strspn(at + 1, " ") : NULL;
}

static const char *read_shape(const char *at, vtc_tensor *out) {
    if (*at++ != '(') return "expected a shape";
    while (*at != ')') {
        char *end;
        const long long n = strtoll(at, &end, 10);
        if (end == at || n < 0 || out->rank == VTC_MAX_RANK) return "expected a shape of at most 8 axes";
        if (n && out->bytes > INT64_MAX / n) return "expected a smaller array";
        out->bytes *= n;
        out->shape[out->rank++] = n;
        at = end + strspn(end, ", ");
    }
    return NULL;
}

static const char *read_header(FILE *file, vtc_tensor *out) {
    unsigned char head[12];
    static char text[LARGEST];
    if (fread(head, 1, 10, file) != 10 || memcmp(head, "\x93NUMPY", 6)) return "expected a .npy file";
    size_t size = head[8] | (size_t)head[9] << 8;
    if (head[6] > 1) {
        if (fread(head + 10, 1, 2, file) != 2 || head[10] || head[11]) return "expected a shorter header";
    }
    if (size >= LARGEST || fread(text, 1, size, file) != size) return "expected a header";
    text[size] = 0;
    const char *type = value_of(text, "'descr'"), *order = value_of(text, "'fortran_order'"), *shape = value_of(text, "'shape'");
    if (!type || !order || !shape) return "expected descr, fortran_order and shape";
    if (strncmp(order, "False", 5)) return "expected a row-major array";
    for (int k = 0; k < KINDS && !out->dtype; ++k)
        if (!strncmp(type + 1, TYPES[k].name, strlen(TYPES[k].name)) && type[1 + strlen(TYPES[k].name)] == *type) out->dtype = TYPES[k].dtype, out->bytes = TYPES[k].bytes;
    return out->dtype ? read_shape(shape, out) : "expected a little-endian array of a known type";
}

const char *npy_read(const char *path, vtc_tensor *out) {
    FILE *file = fopen(path, "rb");
    memset(out, 0, sizeof *out);
    if (!file) return strerror(errno);
    const char *error = read_header(file, out);
    if (!error) {
        out->data = malloc(out->bytes ? (size_t)out->bytes : 1);
        if (!out->data) error = "expected memory";
        else if (fread(out->data, 1, (size_t)out->bytes, file) != (size_t)out->bytes) error = "expected more data";
    }
    if (error) free(out->data), out->data = NULL;
    fclose(file);
    return error;
}

const char *npy_word(const char *word, vtc_tensor *out) {
    char *end;
    const double number = strtod(word, &end);
    if (end == word || *end) return npy_read(word, out);
    memset(out, 0, sizeof *out);
    out->dtype = VTC_F64, out->bytes = sizeof number;
    out->data = malloc(sizeof number);
    if (!out->data) return "expected memory";
    memcpy(out->data, &number, sizeof number);
    return NULL;
}

const char *npy_write(const char *path, const vtc_tensor *t) {
    char text[256] = "";
    size_t n = 10, bytes = 0;
    const char *type = NULL;
    for (int k = 0; k < KINDS && !type; ++k)
        if (TYPES[k].dtype == t->dtype) type = TYPES[k].name, bytes = (size_t)TYPES[k].bytes;
    if (!type || t->device != VTC_CPU) return "expected a tensor of the CPU";
    n += (size_t)snprintf(text + n, sizeof text - n, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
    for (int32_t a = 0; a < t->rank; ++a) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%" PRId64 ",", t->shape[a]);
        bytes *= (size_t)t->shape[a];
    }
    n += (size_t)snprintf(text + n, sizeof text - n, "), }");
    while ((n + 1) % 64) text[n++] = ' ';
    text[n++] = '\n';
    memcpy(text, "\x93NUMPY\1\0", 8);
    text[8] = (char)((n - 10) & 0xff), text[9] = (char)((n - 10) >> 8);
    FILE *file = fopen(path, "wb");
    if (!file) return strerror(errno);
    const int good = fwrite(text, 1, n, file) == n && fwrite(t->data, 1, bytes, file) == bytes;
    return fclose(file) || !good ? "cannot write it" : NULL;
}
