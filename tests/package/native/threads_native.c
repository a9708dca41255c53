/* Many threads call one package at once, some of them wrongly: for the thread sanitizer.
 *
 *     ./threads_native model.vtc forward x.npy */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "npy.h"
#include "vtc_runtime.h"

enum { THREADS = 12, CALLS = 40 };
static vtc_package *package;
static const char *entry;
static vtc_tensor input;

static void *work(void *wrong) {
    for (int k = 0; k < CALLS; ++k) {
        vtc_tensor output = {0}, x = input;
        const int bad = k % 5 == 4;
        if (bad) x.rank = 0;
        const vtc_status status = vtc_run(package, entry, &x, 1, &output, 1, NULL);
        if (status != (bad ? VTC_BAD_ARGUMENT : VTC_OK) || !vtc_error(package)) *(int *)wrong = 1;
        vtc_release(package, &output);
    }
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t threads[THREADS];
    int wrong[THREADS] = {0}, any = 0;
    vtc_options options = {.threads = 4};
    if (count != 4 || npy_read(arguments[3], &input)) return 2;
    entry = arguments[2];
    if (vtc_open(arguments[1], &options, &package)) return 3;
    for (int i = 0; i < THREADS; ++i) pthread_create(threads + i, NULL, work, wrong + i);
    for (int i = 0; i < THREADS; ++i) pthread_join(threads[i], NULL), any |= wrong[i];
    vtc_close(package);
    free(input.data);
    return any;
}
