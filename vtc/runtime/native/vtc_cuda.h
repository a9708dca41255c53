/* Part of vtc_runtime.c: the NVIDIA driver, loaded when it is needed, and plans as CUDA graphs.
 *
 * The steps of a plan at given sizes become the nodes of a graph; what waits for what, the plan says. Steps without bytes or
 * blocks are left out. Memory is named by slots: the inputs, the outputs, then the arena; an output that overwrites an input has
 * that input's slot. The arguments of all nodes are 64-bit words; some hold addresses. A call
 * compares the address in each slot with the one the nodes have, changes the words that follow from it, tells the driver about the
 * nodes that have them, and launches. Launches before it keep what they were given.
 *
 * Behind what the plan keeps in the arena lie scratch memory of kernels, numbers that are given with a call, and the tables of
 * kernels that take their pointers from one. */
#ifndef VTC_CUDA_H
#define VTC_CUDA_H

enum { VTC_OLDEST_DRIVER = 12000, VTC_GRAPHS = 32, VTC_WARP = 32, VTC_STATIC_SHARED = 48 << 10, VTC_SPECIFIC = 90 };

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
    VTC_CU_EVENT_DISABLE_TIMING = 2
};

/* As in cuda.h: CUDA_KERNEL_NODE_PARAMS_v2 and CUDA_MEMCPY3D_v2. */
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

/* What is called of the driver: field, symbol, arguments. */
#define VTC_CALLS(X)                                                                                    \
    X(init, "cuInit", (unsigned))                                                                       \
    X(version, "cuDriverGetVersion", (int *))                                                           \
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
    X(name, "cuGetErrorName", (int, const char **))                                                     \
    X(words, "cuGetErrorString", (int, const char **))

typedef struct vtc_module {
    struct vtc_module *next;
    const vtc_member *member;
    void *handle;
} vtc_module;

typedef struct vtc_cuda {
#define VTC_FIELD(field, symbol, arguments) int(*field) arguments;
    VTC_CALLS(VTC_FIELD)
#undef VTC_FIELD
    int number, retained;
    int shared; /* bytes that a block may have */
    void *context;
    uint64_t weights;
    vtc_module *modules;
    char target[16];
} vtc_cuda;

typedef struct vtc_node {
    void *handle;
    const vtc_step *step;
    unsigned grid[3];
    int64_t bytes, word, table; /* its first word, and in tables; -1: none */
    int changed;
} vtc_node;

/* A word that is an address: that in a slot and so many bytes. A node behind the last one: the tables. */
typedef struct vtc_site {
    int64_t slot, word, add, node;
} vtc_site;

/* A plan at given sizes. */
typedef struct vtc_replay {
    struct vtc_replay *next;
    vtc_zone zone, making; /* `making` goes when it is made */
    int64_t dims[VTC_MOST_DIMS];
    vtc_node *nodes;
    vtc_site *sites;
    int64_t *first, *queue; /* of each slot its first site; nodes to patch */
    uint64_t *words, *known;
    void **params; /* the address of each word */
    int64_t node_count, site_count, word_count, slots, table_words;
    int64_t numbers, tables, arena; /* where these begin in the arena, and its bytes */
    uint64_t number;
    void *graph, *executable;
} vtc_replay;

typedef struct vtc_stream_state {
    vtc_replay *replays; /* the last used first */
    uint64_t made, held; /* how many there were; the number of the last one that had the arena: only its tables are there */
    volatile int32_t *cells;
} vtc_stream_state;

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
        VTC_CALLS(VTC_SYMBOL)
#undef VTC_SYMBOL
    };
    /* It stays loaded: it has threads of its own. */
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return "an NVIDIA driver, found none (libcuda.so.1)";
    unsigned char *at = (unsigned char *)&g->init;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; ++i, at += sizeof(void *)) {
        void *found = dlsym(library, symbols[i]);
        if (!found) return "an NVIDIA driver for CUDA 12 or newer, found an older one";
        memcpy(at, &found, sizeof found);
    }
    int version = 0;
    if (g->init(0)) return "a working NVIDIA driver, found one that does not start";
    if (g->version(&version) || version < VTC_OLDEST_DRIVER) return "an NVIDIA driver for CUDA 12 or newer, found an older one";
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
    p->cuda = g;
    return g->target;
}

static int vtc_push(const vtc_package *p) { return p->cuda->push(p->cuda->context); }

static void vtc_pop(const vtc_package *p) {
    void *mine;
    p->cuda->pop(&mine);
}

static void vtc_enter_gpu(vtc_fault *f, vtc_call *c) {
    vtc_cu(f, c->package->cuda, vtc_push(c->package), "cuCtxPushCurrent");
    c->entered = 1;
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

static void *vtc_stand_in_for(vtc_fault *f, vtc_call *c, void *host, int64_t bytes, int copy, int back) {
    vtc_package *p = c->package;
    const vtc_cuda *g = p->cuda;
    if (!c->stand_ins) c->stand_ins = calloc((size_t)(c->plan->input_count + c->plan->output_count), sizeof *c->stand_ins);
    void *device = c->stand_ins ? vtc_allocate_device(p, (size_t)bytes, c->stream) : NULL;
    if (!device) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected %" PRId64 " bytes of device memory, got none", c->entry->name, bytes);
    c->stand_ins[c->stand_in_count++] = (vtc_stand_in){device, host, (size_t)bytes, back};
    if (copy && bytes) vtc_cu(f, g, g->write((uint64_t)(uintptr_t)device, host, (size_t)bytes, c->stream), "copying an input");
    return device;
}

static void vtc_fetch(vtc_fault *f, vtc_call *c, void *host, const void *device, size_t bytes) {
    const vtc_cuda *g = c->package->cuda;
    c->fetching = 1;
    if (bytes) vtc_cu(f, g, g->read(host, (uint64_t)(uintptr_t)device, bytes, c->stream), "copying an output");
    vtc_cu(f, g, g->wait(c->stream), "cuStreamSynchronize");
    c->fetching = 0;
}

static void vtc_free_replay(const vtc_cuda *, vtc_replay *);

static void vtc_leave_gpu(vtc_call *c) {
    /* A copy may still be under way, whatever failed. */
    if (c->stand_in_count || c->fetching) c->package->cuda->wait(c->stream);
    for (int64_t i = 0; i < c->stand_in_count; ++i) vtc_free_device(c->package, c->stand_ins[i].device, c->stand_ins[i].bytes, c->stream);
    free(c->stand_ins);
    if (c->making) vtc_free_replay(c->package->cuda, c->making);
    vtc_pop(c->package);
}

/* ---- kernels ---- */

static void *vtc_module_of(vtc_fault *f, vtc_package *p, const vtc_member *m) {
    vtc_cuda *g = p->cuda;
    for (vtc_module *i = g->modules; i; i = i->next)
        if (i->member == m) return i->handle;
    vtc_module *made = vtc_make(f, &p->zone, 1, sizeof *made);
    made->member = m;
    vtc_cu(f, g, g->load(&made->handle, m->data), m->name);
    made->next = g->modules, g->modules = made;
    return made->handle;
}

static void vtc_link_kernel(vtc_fault *f, vtc_package *p, vtc_code_of *k, const vtc_json *about) {
    const vtc_cuda *g = p->cuda;
    k->cubin = vtc_member_in(f, p, about, "file");
    k->warps = vtc_whole(f, k->symbol, vtc_find(about, "warps"), 1, 32);
    k->shared = vtc_whole(f, k->symbol, vtc_find(about, "shared"), 0, g->shared);
    k->scratch = vtc_whole(f, k->symbol, vtc_find(about, "scratch"), 0, VTC_MOST);
    k->alignment = vtc_whole(f, k->symbol, vtc_find(about, "alignment"), 1, 1 << 20);
    /* Modules are read to where they say they end: they are ELF files, whose hash was right. */
    if (k->cubin->size < 64) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a kernel, got %" PRIu64 " bytes", k->cubin->name, k->cubin->size);
    vtc_cu(f, g, g->function(&k->function, vtc_module_of(f, p, k->cubin), k->symbol), k->symbol);
    if (k->shared > VTC_STATIC_SHARED) vtc_cu(f, g, g->set_attribute(k->function, VTC_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)k->shared), k->symbol);
}

typedef struct vtc_linked {
    vtc_plan *plan;
    const vtc_json *kernels;
} vtc_linked;

static void vtc_link_kernels(vtc_fault *f, vtc_package *p, void *what) {
    const vtc_linked *l = what;
    for (vtc_code_of *k = l->plan->kernels; k < l->plan->kernels + l->plan->kernel_count; ++k) {
        const vtc_json *about = vtc_find(l->kernels, k->symbol);
        if (!about) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected a kernel %.100s in the manifest, got none", l->plan->name, k->symbol);
        vtc_link_kernel(f, p, k, about);
    }
}

static void vtc_link_cuda(vtc_fault *f, vtc_package *p, vtc_plan *n, const vtc_json *plan) {
    for (const vtc_step *s = n->steps; s < n->steps + n->step_count; ++s)
        if (s->kind != 'k' && s->kind != 'c')
            vtc_fail(f, VTC_NO_TARGET, "plan %s: expected launches and copies for %s, got a loop or a branch, which runs here on the CPU alone%s%s", n->name, p->target, *s->note ? "\n  at " : "", s->note);
    vtc_linked l = {n, vtc_get(f, n->name, plan, "kernels", VTC_OBJECT)};
    vtc_on_gpu(f, p, vtc_link_kernels, &l);
}

/* ---- layout: the steps at given sizes ---- */

static int64_t vtc_rounded(vtc_fault *f, int64_t n, int64_t to) {
    if (n > VTC_MOST) vtc_fail(f, VTC_BAD_PACKAGE, "expected scratch memory of less than 2^62 bytes, got more");
    return (n + to - 1) / to * to;
}

typedef struct vtc_layout {
    vtc_fault *fault;
    vtc_call *call;
    vtc_replay *replay;
    const vtc_plan *plan;
    int64_t cell, end;
} vtc_layout;

static int64_t vtc_slot_of(const vtc_plan *n, const vtc_ref *ref) {
    if (ref->kind == 'i') return ref->index;
    if (ref->kind == 'a') return n->input_count + n->output_count;
    return n->over[ref->index] >= 0 ? n->over[ref->index] : n->input_count + ref->index;
}

static void vtc_add_site(vtc_replay *r, int64_t slot, int64_t word, int64_t add, int64_t node) {
    r->sites[r->site_count++] = (vtc_site){slot, word, add, node};
}

/* The words of a node behind its addresses: sizes, the error cell, Triton's two scratch pointers. */
static void vtc_add_rest(vtc_layout *l, vtc_node *node, const vtc_step *s, int64_t cell, int64_t k) {
    vtc_replay *r = l->replay;
    const int64_t arena = r->slots - 1;
    for (int64_t i = 0; i < s->size_count; ++i) r->words[r->word_count++] = (uint64_t)vtc_value_at(l->fault, s->sizes + i, l->call->plan_dims);
    if (cell >= 0) r->words[r->word_count++] = (uint64_t)(uintptr_t)l->call->instance->cuda->cells + (uint64_t)(VTC_CELL * cell);
    if (s->kernel->scratch) {
        int64_t bytes = s->kernel->scratch; /* of each block */
        const int64_t at = vtc_rounded(l->fault, l->end, s->kernel->alignment > VTC_CELL ? s->kernel->alignment : VTC_CELL);
        int much = 0;
        for (int a = 0; a < 3; ++a) much |= __builtin_mul_overflow(bytes, (int64_t)node->grid[a], &bytes);
        if (much || __builtin_add_overflow(at, bytes, &l->end)) l->end = INT64_MAX;
        vtc_rounded(l->fault, l->end, 1);
        vtc_add_site(r, arena, r->word_count, at, k);
    }
    r->word_count += 2;
}

/* Whether a launch has blocks; its grid goes to the node. */
static int vtc_blocks(vtc_layout *l, const vtc_step *s, vtc_node *node) {
    static const int64_t most[3] = {INT32_MAX, 65535, 65535};
    int blocks = 1;
    for (int a = 0; a < 3; ++a) {
        const int64_t n = vtc_size_at(l->fault, s->grid + a, l->call->plan_dims);
        if (n > most[a]) vtc_fail(l->fault, VTC_BAD_ARGUMENT, "%s: expected sizes with at most %" PRId64 " blocks along axis %d of a grid, got %" PRId64, s->kernel->symbol, most[a], a, n);
        node->grid[a] = (unsigned)n;
        blocks &= n > 0;
    }
    return blocks;
}

static void vtc_add_node(vtc_layout *l, const vtc_step *s) {
    vtc_replay *r = l->replay;
    const int64_t k = r->node_count, *dims = l->call->plan_dims, cell = s->kernel && s->kernel->checks ? l->cell++ : -1;
    vtc_node *node = r->nodes + k;
    *node = (vtc_node){.step = s, .table = -1};
    if (s->kernel ? !vtc_blocks(l, s, node) : !(node->bytes = vtc_size_at(l->fault, &s->bytes, dims))) return;
    const int table = s->kernel && s->kernel->table;
    if (table) node->table = r->table_words;
    vtc_check_args(l->fault, l->plan, s, dims);
    for (int64_t i = 0; i < s->arg_count; ++i) {
        const vtc_ref *ref = s->args + i;
        const int64_t add = ref->kind == 'a' ? vtc_size_at(l->fault, &ref->offset, dims) : 0;
        /* The words of tables come first, so those of nodes are numbered from their end on. */
        vtc_add_site(r, vtc_slot_of(l->plan, ref), table ? r->table_words++ : r->word_count++, add, table ? -1 : k);
    }
    if (!table) node->word = r->word_count - s->arg_count;
    else node->word = r->word_count++;
    if (s->kernel) vtc_add_rest(l, node, s, cell, k);
    ++r->node_count;
}

static int vtc_by_slot(const void *a, const void *b) {
    const vtc_site *x = a, *y = b;
    return x->slot != y->slot ? (x->slot < y->slot ? -1 : 1) : (x->word > y->word) - (x->word < y->word);
}

/* Where everything lies: numbers and tables behind what kernels use; sites by slot. */
static void vtc_settle(vtc_layout *l) {
    vtc_replay *r = l->replay;
    const int64_t arena = r->slots - 1;
    r->numbers = vtc_rounded(l->fault, l->end, VTC_CELL);
    r->tables = r->numbers + VTC_CELL * l->call->numbers;
    r->arena = r->tables + 8 * r->table_words;
    memmove(r->words + r->table_words, r->words, (size_t)r->word_count * sizeof *r->words);
    memset(r->words, 0, (size_t)r->table_words * sizeof *r->words);
    for (vtc_site *s = r->sites; s < r->sites + r->site_count; ++s) {
        if (s->node < 0) s->node = r->node_count;
        else s->word += r->table_words;
    }
    for (vtc_node *n = r->nodes; n < r->nodes + r->node_count; ++n) {
        n->word += r->table_words;
        if (n->table >= 0) vtc_add_site(r, arena, n->word, r->tables + 8 * n->table, n - r->nodes);
    }
    r->word_count += r->table_words;
    for (int64_t w = 0; w < r->word_count; ++w) r->params[w] = r->words + w;
    qsort(r->sites, (size_t)r->site_count, sizeof *r->sites, vtc_by_slot);
    for (int64_t i = 0; i < r->site_count; ++i) ++r->first[r->sites[i].slot + 1];
    for (int64_t i = 0; i < r->slots; ++i) r->first[i + 1] += r->first[i];
    memset(r->known, -1, (size_t)r->slots * sizeof *r->known);
}

static void vtc_lay_out(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_plan *n = c->plan;
    vtc_layout l = {.fault = f, .call = c, .replay = r, .plan = n, .end = vtc_size_at(f, &n->arena, c->plan_dims)};
    size_t words = 1, steps = (size_t)n->step_count;
    for (const vtc_step *s = n->steps; s < n->steps + n->step_count; ++s) words += (size_t)(s->arg_count + s->size_count) + 5;
    r->slots = n->input_count + n->output_count + 1;
    r->nodes = vtc_make(f, &r->zone, steps + 1, sizeof *r->nodes);
    r->queue = vtc_make(f, &r->zone, steps + 1, sizeof *r->queue);
    r->sites = vtc_make(f, &r->zone, words, sizeof *r->sites);
    r->words = vtc_make(f, &r->zone, words, sizeof *r->words);
    r->params = vtc_make(f, &r->zone, words, sizeof *r->params);
    r->first = vtc_make(f, &r->zone, (size_t)r->slots + 1, sizeof *r->first);
    r->known = vtc_make(f, &r->zone, (size_t)r->slots, sizeof *r->known);
    memcpy(r->dims, c->plan_dims, sizeof r->dims);
    for (const vtc_step *s = n->steps; s < n->steps + n->step_count; ++s) vtc_add_node(&l, s);
    vtc_settle(&l);
}

/* ---- graphs ---- */

static vtc_kernel_params vtc_params_of(const vtc_replay *r, const vtc_node *n) {
    vtc_kernel_params p;
    memset(&p, 0, sizeof p);
    p.function = n->step->kernel->function;
    for (int a = 0; a < 3; ++a) p.grid[a] = n->grid[a], p.block[a] = 1;
    p.block[0] = (unsigned)(VTC_WARP * n->step->kernel->warps);
    p.shared = (unsigned)n->step->kernel->shared;
    p.params = r->params + n->word;
    return p;
}

static vtc_copy_params vtc_copy_of(const vtc_replay *r, const vtc_node *n) {
    vtc_copy_params p;
    memset(&p, 0, sizeof p);
    p.source.type = p.target.type = VTC_CU_MEMORYTYPE_UNIFIED;
    p.target.device = r->words[n->word], p.source.device = r->words[n->word + 1];
    p.width = (size_t)n->bytes, p.height = p.depth = 1;
    return p;
}

static void vtc_free_replay(const vtc_cuda *g, vtc_replay *r) {
    if (r->executable) g->free_executable(r->executable);
    if (r->graph) g->free_graph(r->graph);
    vtc_free_zone(&r->making);
    vtc_free_zone(&r->zone);
    free(r);
}

/* Which nodes are the last of a step: the node it is, or, if it is none, those that it would have waited for. */
typedef struct vtc_ends {
    void **nodes;
    size_t count;
} vtc_ends;

/* The nodes that a step waits for, each once. */
static vtc_ends vtc_before(vtc_fault *f, vtc_zone *zone, const vtc_step *s, const vtc_ends *ends) {
    vtc_ends all = {NULL, 0};
    size_t most = 1;
    for (int64_t a = 0; a < s->after_count; ++a) most += ends[s->after[a]].count;
    all.nodes = vtc_make(f, zone, most, sizeof *all.nodes);
    for (int64_t a = 0; a < s->after_count; ++a)
        for (size_t i = 0; i < ends[s->after[a]].count; ++i) {
            void *node = ends[s->after[a]].nodes[i];
            size_t k = 0;
            while (k < all.count && all.nodes[k] != node) ++k;
            if (k == all.count) all.nodes[all.count++] = node;
        }
    return all;
}

static void vtc_create(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_plan *n = c->plan;
    vtc_ends *ends = vtc_make(f, &r->making, (size_t)n->step_count, sizeof *ends);
    vtc_cu(f, g, g->graph(&r->graph, 0), "cuGraphCreate");
    vtc_node *node = r->nodes;
    for (int64_t k = 0; k < n->step_count; ++k) {
        const vtc_step *s = n->steps + k;
        const vtc_ends before = ends[k] = vtc_before(f, &r->making, s, ends);
        int code;
        if (node == r->nodes + r->node_count || node->step != s) continue; /* it does not happen */
        if (s->kernel) {
            const vtc_kernel_params p = vtc_params_of(r, node);
            code = g->add_kernel(&node->handle, r->graph, before.nodes, before.count, &p);
        } else {
            const vtc_copy_params p = vtc_copy_of(r, node);
            code = g->add_copy(&node->handle, r->graph, before.nodes, before.count, &p, g->context);
        }
        vtc_cu(f, g, code, s->kernel ? s->kernel->symbol : "cuGraphAddMemcpyNode");
        ends[k] = (vtc_ends){&node->handle, 1};
        ++node;
    }
    vtc_cu(f, g, g->instantiate(&r->executable, r->graph, 0), "cuGraphInstantiate");
    vtc_free_zone(&r->making);
}

/* Take the addresses of this call. Gives how many nodes have other words now; `*tables`: their words have. */
static int64_t vtc_update(vtc_replay *r, void *const *table, int *tables) {
    int64_t queued = 0;
    for (int64_t slot = 0; slot < r->slots; ++slot) {
        const uint64_t at = (uint64_t)(uintptr_t)table[slot];
        if (at == r->known[slot]) continue;
        r->known[slot] = at;
        for (int64_t i = r->first[slot]; i < r->first[slot + 1]; ++i) {
            const vtc_site *s = r->sites + i;
            r->words[s->word] = at + (uint64_t)s->add;
            if (s->node == r->node_count) *tables = 1;
            else if (!r->nodes[s->node].changed) r->nodes[s->node].changed = 1, r->queue[queued++] = s->node;
        }
    }
    return queued;
}

static int vtc_patch(const vtc_cuda *g, const vtc_replay *r, const vtc_node *n) {
    if (n->step->kernel) {
        const vtc_kernel_params p = vtc_params_of(r, n);
        return g->set_kernel(r->executable, n->handle, &p);
    }
    const vtc_copy_params p = vtc_copy_of(r, n);
    return g->set_copy(r->executable, n->handle, &p, g->context);
}

static void vtc_forget(vtc_replay *r) {
    memset(r->known, -1, (size_t)r->slots * sizeof *r->known);
    for (int64_t k = 0; k < r->node_count; ++k) r->nodes[k].changed = 0;
}

static void vtc_play(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_instance *i = c->instance;
    const uint64_t arena = (uint64_t)(uintptr_t)i->arena;
    int tables = i->cuda->held != r->number && r->table_words, code = 0;
    i->cuda->held = r->number;
    const int64_t queued = vtc_update(r, i->table, &tables);
    if (!r->executable) {
        for (int64_t k = 0; k < r->node_count; ++k) r->nodes[k].changed = 0;
        vtc_create(f, c, r);
    } else
        for (int64_t k = 0; k < queued; ++k) {
            vtc_node *n = r->nodes + r->queue[k];
            n->changed = 0;
            if (!code) code = vtc_patch(g, r, n);
        }
    if (!code && tables) code = g->write(arena + (uint64_t)r->tables, r->words, 8 * (size_t)r->table_words, c->stream);
    if (!code && c->numbers) code = g->write(arena + (uint64_t)r->numbers, i->numbers, VTC_CELL * (size_t)c->numbers, c->stream);
    if (!code) code = g->launch(r->executable, c->stream);
    if (code) vtc_forget(r); /* the nodes may have anything now */
    vtc_cu(f, g, code, c->entry->name);
}

/* ---- a call ---- */

static int64_t vtc_cell_count(const vtc_plan *n) {
    int64_t count = 0;
    for (const vtc_step *s = n->steps; s < n->steps + n->step_count; ++s) count += s->kernel && s->kernel->checks;
    return count;
}

/* An index that a launch before met outside its axis, once. */
static void vtc_look(vtc_fault *f, const vtc_instance *i) {
    volatile int32_t *cells = i->cuda ? i->cuda->cells : NULL;
    int64_t cell = 0;
    const char *note = NULL;
    for (const vtc_step *s = i->plan->steps; cells && s < i->plan->steps + i->plan->step_count; ++s) {
        if (!s->kernel || !s->kernel->checks) continue;
        volatile int32_t *at = cells + cell++ * (VTC_CELL / 4);
        if (*at && !note) note = s->note;
        if (*at) *at = 0;
    }
    if (note) vtc_fail(f, VTC_OUT_OF_RANGE, "index: expected an index inside its axis, got one outside it%s%s", *note ? "\n  at " : "", note);
}

static void vtc_prepare(vtc_fault *f, vtc_call *c) {
    vtc_instance *i = c->instance;
    const int64_t cells = vtc_cell_count(c->plan);
    void *pinned;
    if (i->cuda) return;
    vtc_stream_state *s = calloc(1, sizeof *s);
    if (!s) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected memory for a call, got none", c->entry->name);
    i->cuda = s;
    if (!cells) return;
    const int code = c->package->cuda->allocate_pinned(&pinned, (size_t)(VTC_CELL * cells), VTC_CU_MEMHOSTALLOC_PORTABLE | VTC_CU_MEMHOSTALLOC_DEVICEMAP);
    if (code) i->cuda = NULL, free(s);
    vtc_cu(f, c->package->cuda, code, "cuMemHostAlloc");
    memset(pinned, 0, (size_t)(VTC_CELL * cells));
    s->cells = pinned;
}

/* The steps at the sizes of this call, now the first of the list. */
static vtc_replay *vtc_replay_of(vtc_fault *f, vtc_call *c) {
    vtc_stream_state *s = c->instance->cuda;
    const size_t bytes = (size_t)c->plan->dim_count * sizeof *c->plan_dims;
    vtc_replay **i = &s->replays;
    int64_t count = 0;
    while (*i && memcmp((*i)->dims, c->plan_dims, bytes) && (count + 1 < VTC_GRAPHS || (*i)->next)) i = &(*i)->next, ++count;
    vtc_replay *found = *i;
    if (found) {
        *i = found->next;
        if (!memcmp(found->dims, c->plan_dims, bytes)) {
            found->next = s->replays, s->replays = found;
            return found;
        }
        vtc_free_replay(c->package->cuda, found); /* there are enough */
    }
    vtc_replay *made = calloc(1, sizeof *made);
    if (!made) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected memory for a graph, got none", c->entry->name);
    c->making = made; /* freed with the call, should it fail */
    made->number = ++s->made;
    vtc_lay_out(f, c, made);
    return made;
}

static void vtc_room(vtc_fault *f, vtc_call *c, int64_t bytes) {
    vtc_package *p = c->package;
    vtc_instance *i = c->instance;
    if ((size_t)bytes > i->arena_bytes) {
        if (i->arena) vtc_free_device(p, i->arena, i->arena_bytes, c->stream); /* first: both need not fit */
        i->arena_bytes = 0, i->cuda->held = 0;
        i->arena = vtc_allocate_device(p, (size_t)bytes, c->stream);
        if (!i->arena) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected %" PRId64 " bytes of device memory to work in, got none", c->entry->name, bytes);
        i->arena_bytes = (size_t)bytes;
    }
    i->table[c->plan->input_count + c->plan->output_count] = i->arena;
}

static void vtc_launch(vtc_fault *f, vtc_call *c) {
    vtc_instance *i = c->instance;
    vtc_prepare(f, c);
    vtc_look(f, i);
    vtc_replay *r = vtc_replay_of(f, c);
    vtc_room(f, c, r->arena);
    for (int64_t j = 0, cell = 0; j < c->variant->moving_count; ++j) {
        const int64_t k = c->variant->moving[j];
        const vtc_source s = c->variant->params[k];
        if (s.kind == 'i' && c->entry->inputs[s.index].kind == 'n') i->table[k] = (char *)i->arena + r->numbers + VTC_CELL * cell++;
    }
    if (r->node_count) vtc_play(f, c, r);
    if (c->making) c->making = NULL, r->next = i->cuda->replays, i->cuda->replays = r;
    int waiting = 0;
    for (vtc_stand_in *s = c->stand_ins; s && s < c->stand_ins + c->stand_in_count; ++s) {
        waiting = 1;
        if (s->back && s->bytes) vtc_cu(f, c->package->cuda, c->package->cuda->read(s->host, (uint64_t)(uintptr_t)s->device, s->bytes, c->stream), "copying an input back");
    }
    if (!waiting) return;
    vtc_cu(f, c->package->cuda, c->package->cuda->wait(c->stream), "cuStreamSynchronize");
    vtc_look(f, i);
}

/* ---- streams ---- */

/* Work on another stream from now on, after what the one before still has to do. */
static void vtc_move(vtc_fault *f, vtc_package *p, vtc_instance *i, void *stream) {
    const vtc_cuda *g = p->cuda;
    void *event;
    vtc_cu(f, g, g->event(&event, VTC_CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    int code = g->record(event, i->stream);
    if (!code) code = g->wait_event(stream, event, 0);
    g->free_event(event);
    vtc_cu(f, g, code, "cuStreamWaitEvent");
    i->stream = stream;
}

static void vtc_free_stream(vtc_package *p, vtc_instance *i) {
    vtc_stream_state *s = i->cuda;
    const int pushed = !vtc_push(p);
    for (vtc_replay *r = s->replays, *next; r; r = next) {
        next = r->next;
        vtc_free_replay(p->cuda, r);
    }
    if (s->cells) p->cuda->free_pinned((void *)(uintptr_t)s->cells);
    if (pushed) vtc_pop(p);
    free(s);
}

static void vtc_wait_there(vtc_fault *f, vtc_package *p, void *stream) {
    vtc_cu(f, p->cuda, p->cuda->wait(stream), "cuStreamSynchronize");
    for (const vtc_entry *e = p->entries; e < p->entries + p->entry_count; ++e)
        for (int64_t v = 0; v < e->variant_count; ++v) {
            pthread_mutex_lock(&p->lock); /* instances are only added, at the front */
            const vtc_instance *i = e->variants[v].plan->instances;
            pthread_mutex_unlock(&p->lock);
            for (; i; i = i->next)
                if (i->stream == stream) vtc_look(f, i);
        }
}

static void vtc_wait(vtc_fault *f, vtc_package *p, void *stream) { vtc_on_gpu(f, p, vtc_wait_there, stream); }

static void vtc_wait_for_gpu(vtc_package *p) {
    if (vtc_push(p)) return;
    p->cuda->synchronize();
    vtc_pop(p);
}

static void vtc_close_gpu(vtc_package *p) {
    vtc_cuda *g = p->cuda;
    if (!vtc_push(p)) {
        for (vtc_module *m = g->modules; m; m = m->next) g->unload(m->handle);
        if (g->weights) g->free(g->weights);
        vtc_pop(p);
    }
    if (g->retained) g->release(g->number);
}

#endif
