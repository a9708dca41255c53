/* Part of vtc_runtime.c: the NVIDIA driver, loaded when it is needed: its functions, the GPU, memory. */
#ifndef VTC_DRIVER_H
#define VTC_DRIVER_H

enum { VTC_OLDEST_DRIVER = 12000, VTC_SPECIFIC = 90 };

/* As in cuda.h. */
enum {
    VTC_CUDA_ERROR_OUT_OF_MEMORY = 2,
    VTC_CU_MEMORYTYPE_UNIFIED = 4,
    VTC_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    VTC_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    VTC_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    VTC_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    VTC_CU_MEMHOSTALLOC_PORTABLE = 1,
    VTC_CU_MEMHOSTALLOC_DEVICEMAP = 2,
    VTC_CU_EVENT_DISABLE_TIMING = 2,
    VTC_CU_GRAPH_NODE_TYPE_CONDITIONAL = 13,
    VTC_CU_GRAPH_COND_TYPE_IF = 0,
    VTC_CU_GRAPH_COND_TYPE_WHILE = 1
};

/* As in cuda.h: CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D_v2 and, for conditional nodes, CUgraphNodeParams. */
typedef struct vtc_kernel_params {
    void *function;
    unsigned grid[3], block[3], shared;
    void **params, **extra, *kernel, *context;
} vtc_kernel_params;
typedef struct vtc_copy_end {
    size_t x, y, z, lod;
    unsigned type;
    const void *host;
    uint64_t device;
    void *array, *reserved;
    size_t pitch, height;
} vtc_copy_end;
typedef struct vtc_copy_params {
    vtc_copy_end source, target;
    size_t width, height, depth;
} vtc_copy_params;
typedef struct vtc_fork_params {
    int type, reserved[3];
    uint64_t handle;
    int kind;
    unsigned size;
    void **graphs, *context;
    char rest[208];
} vtc_fork_params;

/* What is called of the driver: field, symbol, arguments. */
#define VTC_CALLS(X)                                                                                    \
    X(init, "cuInit", (unsigned))                                                                       \
    X(driver_version, "cuDriverGetVersion", (int *))                                                    \
    X(count, "cuDeviceGetCount", (int *))                                                               \
    X(device, "cuDeviceGet", (int *, int))                                                              \
    X(attribute, "cuDeviceGetAttribute", (int *, int, int))                                             \
    X(retain, "cuDevicePrimaryCtxRetain", (void **, int))                                               \
    X(release, "cuDevicePrimaryCtxRelease_v2", (int))                                                   \
    X(push, "cuCtxPushCurrent_v2", (void *))                                                            \
    X(pop, "cuCtxPopCurrent_v2", (void **))                                                             \
    X(synchronize, "cuCtxSynchronize", (void))                                                          \
    X(load, "cuModuleLoadData", (void **, const void *))                                                \
    X(unload, "cuModuleUnload", (void *))                                                               \
    X(function, "cuModuleGetFunction", (void **, void *, const char *))                                 \
    X(set_attribute, "cuFuncSetAttribute", (void *, int, int))                                          \
    X(allocate, "cuMemAlloc_v2", (uint64_t *, size_t))                                                  \
    X(free, "cuMemFree_v2", (uint64_t))                                                                 \
    X(allocate_pinned, "cuMemHostAlloc", (void **, size_t, unsigned))                                   \
    X(free_pinned, "cuMemFreeHost", (void *))                                                           \
    X(write, "cuMemcpyHtoDAsync_v2", (uint64_t, const void *, size_t, void *))                          \
    X(read, "cuMemcpyDtoHAsync_v2", (void *, uint64_t, size_t, void *))                                 \
    X(wait, "cuStreamSynchronize", (void *))                                                            \
    X(wait_event, "cuStreamWaitEvent", (void *, void *, unsigned))                                      \
    X(event, "cuEventCreate", (void **, unsigned))                                                      \
    X(record, "cuEventRecord", (void *, void *))                                                        \
    X(free_event, "cuEventDestroy_v2", (void *))                                                        \
    X(graph, "cuGraphCreate", (void **, unsigned))                                                      \
    X(free_graph, "cuGraphDestroy", (void *))                                                           \
    X(add_kernel, "cuGraphAddKernelNode_v2", (void **, void *, void *const *, size_t, const vtc_kernel_params *))       \
    X(add_copy, "cuGraphAddMemcpyNode", (void **, void *, void *const *, size_t, const vtc_copy_params *, void *))      \
    X(instantiate, "cuGraphInstantiateWithFlags", (void **, void *, unsigned long long))                \
    X(free_executable, "cuGraphExecDestroy", (void *))                                                  \
    X(set_kernel, "cuGraphExecKernelNodeSetParams_v2", (void *, void *, const vtc_kernel_params *))     \
    X(set_copy, "cuGraphExecMemcpyNodeSetParams", (void *, void *, const vtc_copy_params *, void *))    \
    X(launch, "cuGraphLaunch", (void *, void *))                                                        \
    X(run, "cuLaunchKernel", (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **)) \
    X(move, "cuMemcpyDtoDAsync_v2", (uint64_t, uint64_t, size_t, void *))                               \
    X(name, "cuGetErrorName", (int, const char **))                                                     \
    X(words, "cuGetErrorString", (int, const char **))

/* The same of drivers that have conditional nodes; null where there is none. */
#define VTC_LATER_CALLS(X)                                                                              \
    X(handle, "cuGraphConditionalHandleCreate", (uint64_t *, void *, void *, unsigned, unsigned))       \
    X(add_fork, "cuGraphAddNode", (void **, void *, void *const *, size_t, vtc_fork_params *))

typedef struct vtc_module {
    struct vtc_module *next;
    const vtc_member *member;
    void *handle;
} vtc_module;

typedef struct vtc_cuda {
#define VTC_FIELD(field, symbol, arguments) int(*field) arguments;
    VTC_CALLS(VTC_FIELD)
    VTC_LATER_CALLS(VTC_FIELD)
#undef VTC_FIELD
    int number, retained, version;
    int shared; /* bytes that a block may have */
    void *context;
    uint64_t weights;
    vtc_module *modules;
    char target[16];
    vtc_code_of *control; /* the kernels of vtc_control.h, once they were looked for */
    int graphs;           /* whether plans become graphs: VTC_CUDA_GRAPHS is not 0 */
    char why[160];        /* why there are no conditional nodes for the loops and branches of the package; "" if there are */
} vtc_cuda;

static void vtc_cu(vtc_fault *f, const vtc_cuda *g, int code, const char *what) {
    const char *name = NULL, *words = NULL;
    if (!code) return;
    g->name(code, &name), g->words(code, &words);
    vtc_fail(f, code == VTC_CUDA_ERROR_OUT_OF_MEMORY ? VTC_OUT_OF_MEMORY : VTC_DEVICE_ERROR, "%s: %s (CUDA error %d)%s%s", what, name ? name : "failed", code, words ? ": " : "", words ? words : "");
}

/* ---- the device ---- */

static const char *vtc_load_driver(vtc_cuda *g) {
    static const char *const symbols[] = {
#define VTC_SYMBOL(field, symbol, arguments) symbol,
        VTC_CALLS(VTC_SYMBOL) VTC_LATER_CALLS(VTC_SYMBOL)
#undef VTC_SYMBOL
    };
    static const size_t all = sizeof symbols / sizeof *symbols, later = 2;
    /* It stays loaded: it has threads of its own. */
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return "an NVIDIA driver, found none (libcuda.so.1)";
    unsigned char *at = (unsigned char *)&g->init;
    for (size_t i = 0; i < all; ++i, at += sizeof(void *)) {
        void *found = dlsym(library, symbols[i]);
        if (!found && i < all - later) return "an NVIDIA driver for CUDA 12 or newer, found an older one";
        memcpy(at, &found, sizeof found);
    }
    if (g->init(0)) return "a working NVIDIA driver, found one that does not start";
    if (g->driver_version(&g->version) || g->version < VTC_OLDEST_DRIVER) return "an NVIDIA driver for CUDA 12 or newer, found an older one";
    return NULL;
}

/* The capability of the GPU, as 90 for 9.0; 0 and `*why` if there is none. */
static int vtc_find_gpu(vtc_cuda *g, int number, const char **why) {
    int count = 0, major = 0, minor = 0;
    *why = vtc_load_driver(g);
    if (*why) return 0;
    if (g->count(&count) || number < 0 || number >= count || g->device(&g->number, number)) return *why = count > 0 ? "a GPU of that number, found none" : "an NVIDIA GPU, found none", 0;
    if (g->attribute(&major, VTC_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, g->number) || g->attribute(&minor, VTC_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, g->number) ||
        g->attribute(&g->shared, VTC_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, g->number))
        return *why = "a working GPU, found one that does not answer", 0;
    return 10 * major + minor;
}

/* The target whose kernels run on a GPU: its own, or the last before it of the same major version. From 9.0 on kernels are for one
 * architecture (sm_90a). */
static int vtc_best_arch(const vtc_json *targets, int capability) {
    int best = 0;
    for (const vtc_json *i = targets->items; i; i = i->next) {
        char *end;
        if (i->kind != VTC_TEXT || strncmp(i->text, "sm_", 3)) continue;
        const long arch = strtol(i->text + 3, &end, 10);
        const int older = arch < capability && capability < VTC_SPECIFIC && arch / 10 == capability / 10;
        if (*end || (arch != capability && !older) || arch < best) continue;
        best = (int)arch;
    }
    return best;
}

static int vtc_any_gpu(const vtc_json *targets) {
    for (const vtc_json *i = targets->items; i; i = i->next)
        if (i->kind == VTC_TEXT && !strncmp(i->text, "sm_", 3)) return 1;
    return 0;
}

/* Begin to use the GPU; its target, or null. `here` tells what could run. */
static const char *vtc_open_gpu(vtc_fault *f, vtc_package *p, const vtc_json *targets, const char *asked, int must, vtc_words *here) {
    vtc_cuda *g = vtc_make(f, &p->zone, 1, sizeof *g);
    const char *why;
    if (!must && !vtc_any_gpu(targets)) return NULL;
    const int capability = vtc_find_gpu(g, p->options.device, &why);
    if (!capability) {
        if (must) vtc_fail(f, VTC_NO_TARGET, "cuda:%d: expected %s", (int)p->options.device, why);
        vtc_add(here, "%sno GPU: expected %s", *here->text ? "; " : "", why);
        return NULL;
    }
    const int arch = vtc_best_arch(targets, capability);
    vtc_add(here, "%ssm_%d", *here->text ? ", " : "", capability);
    snprintf(g->target, sizeof g->target, "sm_%d", arch);
    if (asked && strcmp(asked, g->target) && vtc_has_target(targets, asked)) vtc_fail(f, VTC_NO_TARGET, "expected a target for the GPU, which is sm_%d, got %s", capability, asked);
    if (!arch || (asked && strcmp(asked, g->target))) return NULL;
    vtc_cu(f, g, g->retain(&g->context, g->number), "cuDevicePrimaryCtxRetain");
    g->retained = 1;
    const char *graphs = getenv("VTC_CUDA_GRAPHS");
    g->graphs = !graphs || strcmp(graphs, "0");
    p->cuda = g;
    return g->target;
}

static int vtc_push(const vtc_package *p) { return p->cuda->push(p->cuda->context); }

static void vtc_pop(const vtc_package *p) {
    void *mine;
    p->cuda->pop(&mine);
}

/* Work outside calls with the context of the GPU, which the thread gives back whatever happens. */
typedef struct vtc_visit {
    vtc_package *package;
    void (*work)(vtc_fault *, vtc_package *, void *);
    void *what;
} vtc_visit;

static void vtc_visiting(vtc_fault *f, void *what) {
    const vtc_visit *v = what;
    v->work(f, v->package, v->what);
}

static void vtc_on_gpu(vtc_fault *f, vtc_package *p, void (*work)(vtc_fault *, vtc_package *, void *), void *what) {
    vtc_fault inner;
    vtc_visit v = {p, work, what};
    vtc_cu(f, p->cuda, vtc_push(p), "cuCtxPushCurrent");
    const vtc_status status = vtc_guarded(&inner, vtc_visiting, &v);
    vtc_pop(p);
    if (status) vtc_fail(f, status, "%s", inner.words);
}

/* ---- memory ---- */

static void *vtc_allocate_device(vtc_package *p, size_t bytes, void *stream) {
    const vtc_allocator *a = p->options.allocator;
    uint64_t address = 0;
    bytes = bytes ? bytes : 1;
    if (a) return a->allocate(a->context, bytes, 256, stream);
    return p->cuda->allocate(&address, bytes) ? NULL : (void *)(uintptr_t)address;
}

static void vtc_free_device(vtc_package *p, void *memory, size_t bytes, void *stream) {
    const vtc_allocator *a = p->options.allocator;
    if (a) {
        a->release(a->context, memory, bytes ? bytes : 1, stream);
        return;
    }
    const int pushed = !vtc_push(p);
    p->cuda->free((uint64_t)(uintptr_t)memory);
    if (pushed) vtc_pop(p);
}

static void vtc_write_weights(vtc_fault *f, vtc_package *p, void *what) {
    const vtc_cuda *g = p->cuda;
    const int all = what != NULL;
    for (const vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w)
        if (w->tensor.bytes && (all || w->state)) vtc_cu(f, g, g->write((uint64_t)(uintptr_t)w->tensor.data, w->stored, (size_t)w->tensor.bytes, NULL), "writing weights");
    vtc_cu(f, g, g->synchronize(), "writing weights");
}

static void vtc_allocate_weights(vtc_fault *f, vtc_package *p, void *what) {
    vtc_cuda *g = p->cuda;
    int64_t bytes = 0;
    for (vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) bytes += (w->tensor.bytes + 255) / 256 * 256;
    if (bytes) vtc_cu(f, g, g->allocate(&g->weights, (size_t)bytes), "memory for weights");
    uint64_t at = g->weights;
    for (vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) {
        w->tensor.data = (void *)(uintptr_t)at, w->tensor.device = vtc_device_of(p);
        at += (uint64_t)(w->tensor.bytes + 255) / 256 * 256;
    }
    vtc_write_weights(f, p, what);
}

static void vtc_upload(vtc_fault *f, vtc_package *p) { vtc_on_gpu(f, p, vtc_allocate_weights, p); }

static void vtc_reset_gpu(vtc_fault *f, vtc_package *p) { vtc_on_gpu(f, p, vtc_write_weights, NULL); }

#endif
