/* Open damaged packages, in one process, each in memory of just its size (the address sanitizer sees a read outside):
 *
 *     ./fuzz_native model.vtc forward x.npy cpu < mutations
 *
 * Lines of stdin, each with one line of stdout, the status and words of it:
 *
 *     flip FULL RUN AT MASK     the package with a byte changed
 *     cut FULL RUN SIZE         its first bytes
 *     take FULL RUN SIZE        other bytes, which follow the line
 *
 * FULL is the check of the weights. With RUN the entry is called where the package opens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"
#include "vtc_runtime.h"

static vtc_tensor input;
static const char *entry, *target;

static vtc_status run(vtc_package *package) {
    vtc_tensor output = {0};
    const vtc_status status = vtc_run(package, entry, &input, 1, &output, 1, NULL);
    vtc_release(package, &output);
    return status;
}

static void try(const unsigned char *bytes, size_t size, int full, int runs) {
    vtc_options options = {.target = target, .full_check = full, .threads = 1};
    vtc_package *package;
    int32_t inputs, outputs;
    char words[100] = "";
    vtc_status status = vtc_open_memory(bytes, size, &options, &package);
    if (!status && strlen(vtc_describe(package)) < 2) status = VTC_DEVICE_ERROR;
    if (!status) vtc_count(package, entry, &inputs, &outputs);
    if (!status && runs) status = run(package);
    strncat(words, vtc_error(package), sizeof words - 1);
    for (char *p = words; *p; ++p)
        if (*p == '\n') *p = ' ';
    printf("%d %s\n", (int)status, words);
    vtc_close(package);
}

static unsigned char *slurp(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size);
    if (fread(bytes, 1, *size, file) != *size) exit(2);
    fclose(file);
    return bytes;
}

int main(int count, char **arguments) {
    size_t size;
    unsigned char *bytes = count == 5 ? slurp(arguments[1], &size) : NULL;
    char verb[8], line[128];
    if (!bytes || npy_read(arguments[3], &input)) return 2;
    entry = arguments[2], target = arguments[4];
    while (fgets(line, sizeof line, stdin)) {
        int full, runs;
        size_t n;
        unsigned mask = 0;
        if (sscanf(line, "%7s %d %d %zu %u", verb, &full, &runs, &n, &mask) < 4) return 2;
        if (!strcmp(verb, "flip")) {
            bytes[n] ^= (unsigned char)mask;
            try(bytes, size, full, runs);
            bytes[n] ^= (unsigned char)mask;
        } else {
            unsigned char *other = malloc(n ? n : 1);
            if (strcmp(verb, "take")) memcpy(other, bytes, n);
            else if (fread(other, 1, n, stdin) != n) return 2;
            try(other, n, full, runs);
            free(other);
        }
    }
    free(bytes), free(input.data);
    return 0;
}
