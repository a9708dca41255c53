/* Times a package in C: main FILE ENTRY INPUT DTYPE CALLS SIZES...; prints a line of JSON. The input is raw bytes. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vtc_runtime.h"

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long resident(void) { /* KiB */
    char line[256];
    long found = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &found);
    return file ? fclose(file), found : 0;
}

static int order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    if (count < 6) return fputs("expected FILE ENTRY INPUT DTYPE CALLS SIZES...\n", stderr), 2;
    vtc_tensor in = {.dtype = atoi(words[4]), .rank = count - 6};
    for (int k = 6; k < count; ++k) in.shape[k - 6] = atoll(words[k]);
    FILE *file = fopen(words[3], "rb");
    in.data = malloc(1 << 24);
    in.bytes = file ? (int64_t)fread(in.data, 1, 1 << 24, file) : 0;
    if (file) fclose(file);
    vtc_package *package;
    const vtc_options options = {.target = "cpu", .threads = getenv("VTC_NUM_THREADS") ? atoi(getenv("VTC_NUM_THREADS")) : 0};
    const double start = now(CLOCK_MONOTONIC);
    if (vtc_open(words[1], &options, &package)) return fprintf(stderr, "%s\n", vtc_error(package)), 1;
    const double opened = now(CLOCK_MONOTONIC);
    const int calls = atoi(words[5]);
    double *times = malloc(sizeof *times * (size_t)calls), first = 0, epoch = 0, sum = 0;
    long kib = 0;
    for (int k = 0; k <= calls; ++k) {
        vtc_tensor out = {0};
        const double before = now(CLOCK_MONOTONIC);
        if (vtc_run(package, words[2], &in, 1, &out, 1, NULL)) return fprintf(stderr, "%s\n", vtc_error(package)), 1;
        const double after = now(CLOCK_MONOTONIC);
        if (k) times[k - 1] = after - before;
        else first = after - opened, epoch = now(CLOCK_REALTIME), kib = resident(), memcpy(&sum, out.data, 4);
        vtc_release(package, &out);
    }
    qsort(times, (size_t)calls, sizeof *times, order);
    printf("{\"load\": %.9f, \"first\": %.9f, \"epoch\": %.9f, \"resident\": %ld, \"call\": %.9f}\n", opened - start, first, epoch,
           kib * 1024, times[calls / 2]);
    vtc_close(package);
    return 0;
}
