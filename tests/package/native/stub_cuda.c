/* A libcuda.so.1 for tests: devices are memory of the host, kernels are the functions below, found by name.
 *
 * Work is done late and in another order: what is given to a stream is kept, with the arguments it had then, until somebody waits;
 * nodes of a graph run as late as their dependencies allow, the last one that may run first. So what is ordered only by luck goes
 * wrong. Copies from the host take the bytes at once, as those from pageable memory do. Device memory is overwritten when
 * it is freed. `stub_*` are for tests: counters, faults. Calls come from one thread at a time (a lock). */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, INVALID_HANDLE = 400, INVALID_CONTEXT = 201, MOST = 64 };
typedef struct { void *function; unsigned grid[3], block[3], shared; void **params, **extra, *kernel, *context; } kernel_params;
typedef struct { size_t x, y, z, lod; unsigned type; const void *host; uint64_t device; void *array, *reserved; size_t pitch, height; } copy_end;
typedef struct { copy_end source, target; size_t width, height, depth; } copy_params;

/* ---- kernels: pointers, a size, then an error cell or scratch ---- */

static void add_one(const unsigned *g, const uint64_t *w) { (void)g; for (uint64_t i = 0; i < w[2]; ++i) ((float *)w[1])[i] = ((float *)w[0])[i] + 1; }
static void twice(const unsigned *g, const uint64_t *w) { (void)g; for (uint64_t i = 0; i < w[2]; ++i) ((float *)w[1])[i] = ((float *)w[0])[i] * 2; }
static void add(const unsigned *g, const uint64_t *w) { (void)g; for (uint64_t i = 0; i < w[3]; ++i) ((float *)w[2])[i] = ((float *)w[0])[i] + ((float *)w[1])[i]; }
static void step(const unsigned *g, const uint64_t *w) { (void)g; for (uint64_t i = 0; i < w[4]; ++i) ((float *)w[3])[i] = ((float *)w[0])[i] - *(float *)w[2] * ((float *)w[1])[i]; }
static void gather(const unsigned *g, const uint64_t *w) {
    (void)g;
    for (uint64_t i = 0; i < w[3]; ++i) {
        const int64_t at = ((int64_t *)w[1])[i];
        if (at < 0 || (uint64_t)at >= w[3]) *(int32_t *)w[4] = 1;
        else ((float *)w[2])[i] = ((float *)w[0])[at];
    }
}
static void add_all(const unsigned *g, const uint64_t *w) {
    const uint64_t *table = (const uint64_t *)w[0];
    (void)g;
    for (uint64_t i = 0; i < w[1]; ++i) ((float *)table[2])[i] = ((float *)table[0])[i] + ((float *)table[1])[i];
}
/* y = x by way of scratch memory: 64 bytes for each block. */
static void through(const unsigned *g, const uint64_t *w) {
    for (uint64_t i = 0; i < w[2]; ++i) {
        float *scratch = (float *)(w[3] + 64 * (i % g[0]));
        *scratch = ((float *)w[0])[i];
        ((float *)w[1])[i] = *scratch;
    }
}
typedef struct { const char *name; void (*run)(const unsigned *, const uint64_t *); int words; } kernel;
static const kernel KERNELS[] = {
    {"add_one_symbol", add_one, 5}, {"double_symbol", twice, 5}, {"add_symbol", add, 6}, {"step_symbol", step, 7},
    {"gather_symbol", gather, 7}, {"add_all_symbol", add_all, 4}, {"through_symbol", through, 5}};

/* ---- counters and faults ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { const char *name; int64_t calls; } counts[MOST];
static char fault_name[64];
static int fault_after, fault_code;
static int64_t memory_left = 64 << 20;
static int devices = 1, capability = 90, driver_version = 12080;
static char last_shared[128];

static int64_t *counter(const char *name) {
    for (int i = 0; i < MOST; ++i) {
        if (!counts[i].name) counts[i].name = strdup(name);
        if (!strcmp(counts[i].name, name)) return &counts[i].calls;
    }
    abort();
}

int64_t stub_count(const char *name) { return *counter(name); }
/* Let the call of `name` after so many others give `code`. */
void stub_fail(const char *name, int after, int code) { snprintf(fault_name, sizeof fault_name, "%s", name), fault_after = after, fault_code = code; }
void stub_memory(int64_t bytes) { memory_left = bytes; }
int64_t stub_memory_left(void) { return memory_left; }
void stub_machine(int count, int arch, int version) { devices = count, capability = arch, driver_version = version; }
const char *stub_shared(void) { return last_shared; }

static int enter(const char *name) {
    pthread_mutex_lock(&lock);
    ++*counter(name);
    if (fault_code && !strcmp(name, fault_name) && fault_after-- == 0) {
        const int code = fault_code;
        fault_code = 0;
        return code;
    }
    return OK;
}
static int leave(int code) { return pthread_mutex_unlock(&lock), code; }
#define CALL(work) do { int code_ = enter(__func__); if (!code_) code_ = (work); return leave(code_); } while (0)

/* ---- memory ---- */

typedef struct block { struct block *next; size_t size; _Alignas(256) char data[]; } block;
static block *blocks;

static int allocate(uint64_t *out, size_t size) {
    if ((int64_t)size > memory_left || !size) return size ? NO_MEMORY : INVALID;
    block *b = aligned_alloc(256, (sizeof *b + size + 255) / 256 * 256);
    memset(b->data, 0xcd, size);
    b->next = blocks, b->size = size, blocks = b, memory_left -= (int64_t)size;
    return *out = (uint64_t)(uintptr_t)b->data, OK;
}

/* ---- streams: what is still to be done ---- */

typedef struct node { kernel_params kernel; copy_params copy; const kernel *what; uint64_t words[16]; struct node *after[MOST]; size_t count; int number; } node;
typedef struct graph { node *nodes[1024]; int count; } graph;
typedef struct work { struct work *next; void *stream; node *nodes; int count; void *to; char *from; size_t size; const void *read; } work;
static work *queue, **queue_end = &queue;

static void push_work(work *w) { *queue_end = w, queue_end = &w->next; }

static void run_node(node *n) {
    if (n->what) n->what->run(n->kernel.grid, n->words);
    else memmove((void *)(uintptr_t)n->copy.target.device, (void *)(uintptr_t)n->copy.source.device, n->copy.width);
}

/* The last node that may run, again and again. */
static void run_graph(work *w) {
    char *done = calloc((size_t)w->count + 1, 1);
    for (int left = w->count; left; --left) {
        int pick = -1;
        for (int k = 0; k < w->count; ++k) {
            int ready = !done[k];
            for (size_t a = 0; a < w->nodes[k].count; ++a) ready &= done[w->nodes[k].after[a]->number];
            if (ready) pick = k;
        }
        if (pick < 0) abort();
        run_node(w->nodes + pick);
        done[pick] = 1;
    }
    free(done);
}

static void flush(void) {
    while (queue) {
        work *w = queue;
        queue = w->next;
        if (w->nodes) run_graph(w);
        else memcpy(w->to, w->read ? w->read : w->from, w->size);
        free(w->nodes), free(w->from), free(w);
    }
    queue_end = &queue;
}

static int release(uint64_t at) {
    for (block **i = &blocks; *i; i = &(*i)->next) {
        block *b = *i;
        if ((uint64_t)(uintptr_t)b->data != at) continue;
        flush();
        memset(b->data, 0xdd, b->size);
        memory_left += (int64_t)b->size, *i = b->next;
        return free(b), OK;
    }
    return INVALID;
}

/* ---- the driver ---- */

static __thread void *stack[8];
static __thread int depth;
static int context;

static int is_current(void) { return depth > 0 ? OK : INVALID_CONTEXT; }
#define HERE(work) CALL(is_current() ? INVALID_CONTEXT : (work))

int cuInit(unsigned flags) { CALL(flags ? INVALID : devices ? OK : 100); }
int cuDriverGetVersion(int *v) { CALL((*v = driver_version, OK)); }
int cuDeviceGetCount(int *n) { CALL((*n = devices, OK)); }
int cuDeviceGet(int *d, int n) { CALL(n < devices ? (*d = n, OK) : 101); }
int cuDeviceGetAttribute(int *v, int kind, int d) { (void)d; CALL((*v = kind == 75 ? capability / 10 : kind == 76 ? capability % 10 : 232448, OK)); }
int cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; CALL((*c = &context, OK)); }
int cuDevicePrimaryCtxRelease_v2(int d) { (void)d; CALL(OK); }
int cuCtxPushCurrent_v2(void *c) { CALL(depth < 8 ? (stack[depth++] = c, OK) : INVALID); }
int cuCtxPopCurrent_v2(void **c) { CALL(depth ? (*c = stack[--depth], OK) : INVALID_CONTEXT); }
int cuCtxSynchronize(void) { HERE((flush(), OK)); }
int stub_depth(void) { return depth; }

int cuModuleLoadData(void **m, const void *image) { HERE(memcmp(image, "fake cubin", 10) ? 209 : (*m = strdup("module"), OK)); }
int cuModuleUnload(void *m) { HERE((free(m), OK)); }
static int find(void **f, const char *name) {
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; ++i)
        if (!strcmp(KERNELS[i].name, name)) return *f = (void *)(uintptr_t)(KERNELS + i), OK;
    return NOT_FOUND;
}
int cuModuleGetFunction(void **f, void *m, const char *name) { (void)m; HERE(find(f, name)); }
int cuFuncSetAttribute(void *f, int kind, int value) { HERE((snprintf(last_shared, sizeof last_shared, "%s %d %d", ((kernel *)f)->name, kind, value), OK)); }

int cuMemAlloc_v2(uint64_t *p, size_t n) { HERE(allocate(p, n)); }
int cuMemFree_v2(uint64_t p) { HERE(release(p)); }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; HERE((*p = aligned_alloc(16, (n + 15) / 16 * 16)) ? OK : NO_MEMORY); }
int cuMemFreeHost(void *p) { HERE((flush(), free(p), OK)); }

static int copy(void *to, const void *from, size_t n, void *stream, int reads) {
    work *w = calloc(1, sizeof *w);
    w->stream = stream, w->to = to, w->size = n;
    if (reads) w->read = from;
    else memcpy(w->from = malloc(n + 1), from, n);
    return push_work(w), OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) { HERE(copy((void *)(uintptr_t)to, from, n, s, 0)); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) { HERE(copy(to, (void *)(uintptr_t)from, n, s, 1)); }
int cuStreamSynchronize(void *s) { (void)s; HERE((flush(), OK)); }
int cuStreamWaitEvent(void *s, void *e, unsigned flags) { (void)s, (void)e, (void)flags; HERE(OK); }
int cuEventCreate(void **e, unsigned flags) { (void)flags; HERE((*e = malloc(1), OK)); }
int cuEventRecord(void *e, void *s) { (void)e, (void)s; HERE(OK); }
int cuEventDestroy_v2(void *e) { HERE((free(e), OK)); }

int cuGraphCreate(void **g, unsigned flags) { HERE(flags ? INVALID : (*g = calloc(1, sizeof(graph)), OK)); }
static void free_graph(graph *g) {
    for (int k = 0; k < g->count; ++k) free(g->nodes[k]);
    free(g);
}
int cuGraphDestroy(void *g) { HERE((free_graph(g), OK)); }

static void set_kernel(node *n, const kernel_params *p) {
    n->kernel = *p, n->what = p->function;
    for (int i = 0; i < n->what->words; ++i) n->words[i] = *(uint64_t *)p->params[i];
}
static int add_node(void **out, graph *g, void *const *after, size_t count, const kernel_params *k, const copy_params *c) {
    node *n = calloc(1, sizeof *n);
    if (count > MOST || g->count == 1024) return free(n), INVALID;
    for (size_t i = 0; i < count; ++i) n->after[i] = after[i];
    n->count = count, n->number = g->count;
    if (k) set_kernel(n, k);
    else n->copy = *c;
    return *out = g->nodes[g->count++] = n, OK;
}
int cuGraphAddKernelNode_v2(void **out, void *g, void *const *after, size_t count, const kernel_params *p) { HERE(add_node(out, g, after, count, p, NULL)); }
int cuGraphAddMemcpyNode(void **out, void *g, void *const *after, size_t count, const copy_params *p, void *c) { HERE(c != &context || p->source.type != 4 || p->target.type != 4 || p->height != 1 || p->depth != 1 ? INVALID : add_node(out, g, after, count, NULL, p)); }

/* An executable has nodes of its own. */
static int instantiate(graph **out, const graph *g) {
    graph *x = calloc(1, sizeof *x);
    x->count = g->count;
    for (int k = 0; k < g->count; ++k) {
        x->nodes[k] = malloc(sizeof(node));
        *x->nodes[k] = *g->nodes[k];
    }
    return *out = x, OK;
}
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long flags) { HERE(flags ? INVALID : instantiate((graph **)x, g)); }
int cuGraphExecDestroy(void *x) { HERE((free_graph(x), OK)); }
int cuGraphExecKernelNodeSetParams_v2(void *x, void *n, const kernel_params *p) { HERE((set_kernel(((graph *)x)->nodes[((node *)n)->number], p), OK)); }
int cuGraphExecMemcpyNodeSetParams(void *x, void *n, const copy_params *p, void *c) { HERE(c != &context ? INVALID : (((graph *)x)->nodes[((node *)n)->number]->copy = *p, OK)); }
static int launch(const graph *x, void *stream) {
    work *w = calloc(1, sizeof *w);
    w->stream = stream, w->count = x->count;
    w->nodes = calloc((size_t)x->count + 1, sizeof *w->nodes);
    for (int k = 0; k < x->count; ++k) w->nodes[k] = *x->nodes[k];
    return push_work(w), OK;
}
int cuGraphLaunch(void *x, void *s) { HERE(launch(x, s)); }
int cuGetErrorName(int code, const char **name) { *name = code == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_STUB"; return OK; }
int cuGetErrorString(int code, const char **words) { (void)code; *words = "as asked for"; return OK; }

/* For tests that read and write device memory themselves. */
uint64_t stub_allocate(size_t n) {
    uint64_t p = 0;
    pthread_mutex_lock(&lock);
    allocate(&p, n);
    pthread_mutex_unlock(&lock);
    return p;
}
int stub_release(uint64_t p) { return pthread_mutex_lock(&lock), leave(release(p)); }
