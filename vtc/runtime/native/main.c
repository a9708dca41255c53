/* Run an entry of a package on .npy files and numbers; outputs go to <entry>.0.npy, <entry>.1.npy ... in this folder:
 *
 *     ./main model.vtc forward x.npy 0.5
 *
 * Without an entry it prints what is in the package, as JSON. */
#include <stdio.h>
#include <stdlib.h>

#include "npy.h"
#include "vtc_runtime.h"

static int failed(const char *what, const char *why) { return fprintf(stderr, "%s: %s\n", what, why), 1; }

static int run(vtc_package *package, const char *entry, int count, char **files) {
    int32_t inputs, outputs;
    if (vtc_count(package, entry, &inputs, &outputs)) return failed("error", vtc_error(package));
    vtc_tensor *in = calloc((size_t)count + 1, sizeof *in), *out = calloc((size_t)outputs + 1, sizeof *out);
    int status = !in || !out;
    for (int i = 0; i < count && !status; ++i) {
        const char *why = npy_word(files[i], in + i);
        if (why) status = failed(files[i], why);
    }
    if (!status && vtc_run(package, entry, in, count, out, outputs, NULL)) status = failed("error", vtc_error(package));
    for (int32_t i = 0; i < outputs && !status; ++i) {
        char path[256];
        snprintf(path, sizeof path, "%s.%d.npy", entry, (int)i);
        if (out[i].dtype == VTC_NONE) continue; /* a constant: vtc_describe has it */
        const char *why = npy_write(path, out + i);
        status = why ? failed(path, why) : (puts(path), 0);
    }
    for (int32_t i = 0; out && i < outputs; ++i) vtc_release(package, out + i);
    for (int i = 0; in && i < count; ++i) free(in[i].data);
    return free(in), free(out), status;
}

int main(int count, char **arguments) {
    if (count < 2) return failed(arguments[0], "expected PACKAGE [ENTRY [INPUT.npy or NUMBER ...]]; PACKAGE is a .vtc file, or the folder of one");
    vtc_package *package;
    int status = vtc_open(arguments[1], NULL, &package) != VTC_OK;
    if (status) failed("error", vtc_error(package));
    else if (count == 2) puts(vtc_describe(package));
    else status = run(package, arguments[2], count - 3, arguments + 3);
    return vtc_close(package), status;
}
