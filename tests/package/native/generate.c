/* Greedy decoding with a package of two entries that share a cache: prefill(ids[1, T]) and decode(ids[1, 1], position[1]), which
 * give the next token and its scores. Tokens go to stdout, the last scores to scores.npy. The target is the CPU's, if none is named:
 *
 *     ./generate gpt.vtc ids.npy 20 cuda */
#include <stdio.h>
#include <stdlib.h>

#include "npy.h"
#include "vtc_runtime.h"

static int64_t token(const vtc_tensor *t) { return *(const int64_t *)t->data; }

static int generate(vtc_package *package, vtc_tensor *ids, int steps) {
    vtc_tensor out[2] = {{0}, {0}}; /* next, scores */
    int status = vtc_run(package, "prefill", ids, 1, out, 2, NULL);
    int64_t next = 0, position = ids->shape[1];
    for (int k = 0; k < steps && !status; ++k) {
        printf("%lld\n", (long long)(next = token(out)));
        vtc_tensor in[2] = {
            {.data = &next, .bytes = 8, .shape = {1, 1}, .rank = 2, .dtype = VTC_I64},
            {.data = &position, .bytes = 8, .shape = {1}, .rank = 1, .dtype = VTC_I64},
        };
        status = vtc_run(package, "decode", in, 2, out, 2, NULL);
        ++position;
    }
    if (!status) status = npy_write("scores.npy", out + 1) != NULL;
    for (int k = 0; k < 2; ++k) vtc_release(package, out + k);
    return status;
}

int main(int count, char **arguments) {
    if (count != 4 && count != 5) return 2;
    vtc_package *package;
    const vtc_options options = {.target = count == 5 ? arguments[4] : NULL};
    vtc_tensor ids;
    if (npy_read(arguments[2], &ids)) return 2;
    int status = vtc_open(arguments[1], &options, &package) || generate(package, &ids, atoi(arguments[3]));
    if (status) fprintf(stderr, "%s\n", vtc_error(package));
    vtc_close(package);
    free(ids.data);
    return status;
}
