/* Runs packages of vtc (`.vtc` files, or folders that `vtc export --emit-c` writes) from C or C++.
 *
 *     vtc_package *package;
 *     vtc_tensor x = {.data = pixels, .bytes = sizeof pixels, .shape = {4, 784}, .rank = 2, .dtype = VTC_F32};
 *     vtc_tensor y = {0};
 *     if (vtc_open("model.vtc", NULL, &package) || vtc_run(package, "forward", &x, 1, &y, 1, NULL)) puts(vtc_error(package));
 *     vtc_release(package, &y);
 *     vtc_close(package);
 *
 * It needs a C library with threads and dlopen; on a GPU also the NVIDIA driver (libcuda.so.1, CUDA 12 or newer), which is loaded
 * when it is needed. Compile `vtc_runtime.c` into the program. There is no global state.
 *
 * A package holds native code. Its hashes say that it is whole, not that it can be trusted. Its file must not be changed while
 * it is open.
 *
 * Functions give VTC_OK (0) or another status; `vtc_error` has the words. All but vtc_open and vtc_close may be called from
 * many threads at once. */
#ifndef VTC_RUNTIME_H
#define VTC_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VTC_MAX_RANK = 8 };

/* Where memory lies: VTC_CPU, or VTC_GPU of the number of a GPU (0, 1 ...). */
enum { VTC_CPU = 0 };
#define VTC_GPU(number) ((number) + 1)

typedef enum vtc_status {
    VTC_OK = 0,
    VTC_BAD_PACKAGE,   /* a file that cannot be read, or is not what it was when it was made */
    VTC_BAD_ARGUMENT,  /* an entry, input or output that does not fit; nothing has run */
    VTC_NO_TARGET,     /* the package has nothing for this machine, or not what was asked for */
    VTC_OUT_OF_MEMORY, /* of the host or of the GPU */
    VTC_OUT_OF_RANGE,  /* a kernel met an index outside its axis */
    VTC_DEVICE_ERROR   /* the NVIDIA driver said no */
} vtc_status;

typedef enum vtc_dtype {
    VTC_NONE = 0, /* of a result that is no tensor: vtc_describe has its value, or the dims it follows from */
    VTC_BOOL, VTC_U8, VTC_I8, VTC_I16, VTC_I32, VTC_I64,
    VTC_F8E4M3, VTC_F8E5M2, VTC_F16, VTC_BF16, VTC_F32, VTC_F64, VTC_C64, VTC_C128
} vtc_dtype;

/* A dense, row-major array. Zero what is not used: `vtc_tensor y = {0}` asks for an output in new memory. */
typedef struct vtc_tensor {
    void *data;
    int64_t bytes; /* that there are at `data` */
    int64_t shape[VTC_MAX_RANK];
    int32_t rank;
    int32_t dtype;
    int32_t device;
    int32_t read_only; /* of an input: a function that writes it is refused */
    int32_t owned;     /* of an output: `data` is new memory, to be given to vtc_release */
} vtc_tensor;

/* Threads that kernels run on. `run` calls the kernel for each part from 0 to parts - 1, in any order and on any threads, and
 * gives the results or'ed. */
typedef int vtc_kernel(void *const *p, const int64_t *n, int64_t part, int64_t parts);
typedef struct vtc_pool {
    int (*run)(struct vtc_pool *pool, vtc_kernel *kernel, void *const *p, const int64_t *n, int64_t parts);
    int64_t threads;
} vtc_pool;

/* Where the memory of outputs and scratch memory comes from. On a GPU it is device memory, which is used on `stream` after
 * `allocate` and before `release` in the order of that stream; on the CPU `stream` is null. `allocate` gives null where there is
 * none. Both are called from the threads that call vtc_run, and from that of vtc_close. */
typedef struct vtc_allocator {
    void *context;
    void *(*allocate)(void *context, size_t bytes, size_t alignment, void *stream);
    void (*release)(void *context, void *memory, size_t bytes, void *stream);
} vtc_allocator;

/* Zeros and nulls choose what suits the machine. What the pointers name must live until vtc_close. */
typedef struct vtc_options {
    const char *target;         /* "cpu", "cuda", or one that vtc_describe names; null: the CPU if the package has code for it, else the GPU */
    int32_t device;             /* the number of the GPU */
    int32_t full_check;         /* not 0: look at every byte of the weights too */
    int64_t threads;            /* on the CPU, with no `pool`; 0: one per core that the process may use */
    vtc_pool *pool;             /* threads of the caller */
    const vtc_allocator *allocator;
    const char *weights;        /* a safetensors file: for a package without weights, or in place of some of those inside */
} vtc_options;

typedef struct vtc_package vtc_package;

/* Open a package: a file or a folder. Whatever the status is, `*out` has the words for it and is to be closed (it is null where
 * there was no memory for it). Other functions refuse a package that was not opened with VTC_OK. */
vtc_status vtc_open(const char *path, const vtc_options *options, vtc_package **out);

/* The same from the bytes of a file, which stay where they are until vtc_close. */
vtc_status vtc_open_memory(const void *bytes, size_t size, const vtc_options *options, vtc_package **out);

/* What it holds, as JSON: {"name", "target", "device", "waits", "targets", "entries", "weights"}, the last three as in its manifest.
 * "waits" says why calls wait in loops and branches for values on the GPU, or "". Null for a package that did not open. */
const char *vtc_describe(vtc_package *package);

/* How many inputs and outputs an entry has. */
vtc_status vtc_count(vtc_package *package, const char *entry, int32_t *inputs, int32_t *outputs);

/* Call an entry. Its inputs are the tensors and numbers among its arguments (those of kind "constant" are left out), its outputs the
 * leaves of its result, both in the order that vtc_describe gives.
 *
 * An input of kind "number" is a 0-d tensor on the CPU: f64, f32 or i64. An input that the function writes (`written`) is written in
 * place, so it must overlap no other one. An output with `data` is written there; it must have room (`bytes`) and overlap
 * nothing else. One without gets new memory; so does one that is `owned` and too small. But a result that is an input or a tensor
 * of the package is that itself: `data` becomes its memory, and is not `owned`.
 *
 * On a GPU the work is given to `stream` (a CUstream; null is the default one) and the call does not wait, unless tensors on the CPU
 * are among the inputs or outputs: those are copied. (It also waits in loops and branches if the driver is older than that of CUDA
 * 12.4, or with VTC_CUDA_GRAPHS=0 in the environment, where kernels are launched one by one.) Inputs and outputs on the GPU are aligned to 16 bytes. A new output is
 * on the CPU unless its `device` says otherwise. An index out of range shows at a later call, or at vtc_synchronize. Calls on
 * different streams that write the same memory are to be ordered by the caller. On the CPU `stream` is ignored, and such calls
 * wait for each other. */
vtc_status vtc_run(vtc_package *package, const char *entry, const vtc_tensor *inputs, int32_t input_count, vtc_tensor *outputs,
                   int32_t output_count, void *stream);

/* Wait for the work on a stream; then say what went wrong there. */
vtc_status vtc_synchronize(vtc_package *package, void *stream);

/* Give back the memory of an output that is `owned`; others stay. It becomes {0}. */
void vtc_release(vtc_package *package, vtc_tensor *output);

/* A tensor that the package holds, by name. Those that some entry writes (`state` in the manifest) may be written by the caller too,
 * between calls. */
vtc_status vtc_state(vtc_package *package, const char *name, vtc_tensor *out);

/* Give all state the values of the file again; no call may run. */
vtc_status vtc_reset(vtc_package *package);

/* The words for the last failure in this thread; "" if there was none. They stay until the next one, or vtc_close. */
const char *vtc_error(vtc_package *package);

/* Close it, after all calls have returned; null is fine. On a GPU it waits for the device. */
void vtc_close(vtc_package *package);

#ifdef __cplusplus
}
#endif
#endif
