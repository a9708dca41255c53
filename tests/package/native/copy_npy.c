/* Read a .npy file and write it again. */
#include <stdio.h>
#include <stdlib.h>

#include "npy.h"

int main(int count, char **arguments) {
    vtc_tensor t;
    if (count != 3) return 2;
    const char *why = npy_read(arguments[1], &t);
    if (!why) why = npy_write(arguments[2], &t);
    free(t.data);
    return why ? fprintf(stderr, "%s\n", why), 1 : 0;
}
