/* A libcuda.so.1 for tests: devices are memory of the host, kernels are the functions below, found by name.
 *
 * Work is done late and in another order: what is given to a stream is kept, with the arguments it had then, until somebody waits;
 * nodes of a graph run as late as their dependencies allow, the last one that may run first. So what is ordered only by luck goes
 * wrong. Conditional nodes run their bodies, which take no copies; a condition that a launch has not set stops the process. Copies from the host take the bytes at once, as those from pageable memory do. Device memory is overwritten when
 * it is freed. `stub_*` are for tests: counters, faults. Calls come from one thread at a time (a lock). */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, INVALID_HANDLE = 400, INVALID_CONTEXT = 201, MOST = 64, TURNS = 100000, CONDITIONS = 1 << 16 };
typedef struct { void *function; unsigned grid[3], block[3], shared; void **params, **extra, *kernel, *context; } kernel_params;
typedef struct { size_t x, y, z, lod; unsigned type; const void *host; uint64_t device; void *array, *reserved; size_t pitch, height; } copy_end;
typedef struct { copy_end source, target; size_t width, height, depth; } copy_params;
typedef struct { int type, reserved[3]; uint64_t handle; int kind; unsigned size; void **graphs, *context; char rest[208]; } fork_params;

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
static void below(const unsigned *g, const uint64_t *w) { (void)g; *(unsigned char *)w[1] = *(float *)w[0] < (float)(int64_t)w[2]; }

/* Those of vtc_control.h, as vtc/runtime/cuda/control.py says them; tests/cuda/ptx_machine.py runs their PTX. */
typedef struct { void *owner; int used, set, value; } condition;
static void decide(uint64_t handle, int value) { ((condition *)handle)->set = 1, ((condition *)handle)->value = value; }
static void flow_test(const unsigned *g, const uint64_t *w) { (void)g; decide(w[1], !*(unsigned char *)w[0] == !w[2]); }
static void flow_begin(const unsigned *g, const uint64_t *w) { (void)g; *(uint64_t *)w[0] = w[2], decide(w[1], 1); }
static void flow_next(const unsigned *g, const uint64_t *w) { (void)g; decide(w[1], (*(uint64_t *)w[0] += w[2]) != w[3]); }
static void flow_move(const unsigned *g, const uint64_t *w) {
    uint64_t to = w[0], from = w[1];
    for (int k = 0; k < 3; ++k)
        if (w[6 + 2 * k] | w[7 + 2 * k]) to += *(uint64_t *)w[2 + k] * w[6 + 2 * k], from += *(uint64_t *)w[2 + k] * w[7 + 2 * k];
    if (g[0] && g[1] && g[2]) memmove((void *)to, (void *)from, w[5]);
}
typedef struct { const char *name; void (*run)(const unsigned *, const uint64_t *); int words; } kernel;
static const kernel KERNELS[] = {
    {"add_one_symbol", add_one, 5}, {"double_symbol", twice, 5}, {"add_symbol", add, 6}, {"step_symbol", step, 7},
    {"gather_symbol", gather, 7}, {"add_all_symbol", add_all, 4}, {"through_symbol", through, 5},
    {"below_symbol", below, 5}, {"vtc_flow_test", flow_test, 5}, {"vtc_flow_begin", flow_begin, 5}, {"vtc_flow_next", flow_next, 6}, {"vtc_flow_move", flow_move, 14}};

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

/* `source`: of a node of an executable, the node it was made from. `body` has a graph if it is a conditional node. */
typedef struct graph graph;
typedef struct node { kernel_params kernel; copy_params copy; const kernel *what; uint64_t words[16]; int after[MOST]; size_t count; int number, loop; condition *condition; graph *body; const struct node *source; } node;
struct graph { node **nodes; int count, inside; };
typedef struct work { struct work *next; void *stream; graph *graph; void *to; char *from; size_t size; const void *read; } work;
static work *queue, **queue_end = &queue;

static void push_work(work *w) { *queue_end = w, queue_end = &w->next; }

static graph *copied(const graph *g) {
    graph *x = calloc(1, sizeof *x);
    x->count = g->count, x->inside = g->inside, x->nodes = calloc((size_t)g->count + 1, sizeof *x->nodes);
    for (int k = 0; k < g->count; ++k) {
        x->nodes[k] = malloc(sizeof(node));
        *x->nodes[k] = *g->nodes[k];
        x->nodes[k]->source = g->nodes[k];
        if (g->nodes[k]->body) x->nodes[k]->body = copied(g->nodes[k]->body);
    }
    return x;
}
static void free_graph(graph *g) {
    for (int k = 0; k < g->count; ++k) {
        if (g->nodes[k]->body) free_graph(g->nodes[k]->body);
        free(g->nodes[k]);
    }
    free(g->nodes), free(g);
}

static void run_graph(const graph *);
static int holds(const condition *c) {
    if (!c->set) abort();
    return c->value;
}
static void run_node(const node *n) {
    if (n->what) n->what->run(n->kernel.grid, n->words);
    else if (!n->body) memmove((void *)(uintptr_t)n->copy.target.device, (void *)(uintptr_t)n->copy.source.device, n->copy.width);
    else if (!n->loop && holds(n->condition)) run_graph(n->body);
    else
        for (int turns = 0; n->loop && holds(n->condition); ++turns) turns < TURNS ? run_graph(n->body) : abort();
}

/* The last node that may run, again and again. */
static void run_graph(const graph *g) {
    char *done = calloc((size_t)g->count + 1, 1);
    for (int left = g->count; left; --left) {
        int pick = -1;
        for (int k = 0; k < g->count; ++k) {
            int ready = !done[k];
            for (size_t a = 0; a < g->nodes[k]->count; ++a) ready &= done[g->nodes[k]->after[a]];
            if (ready) pick = k;
        }
        if (pick < 0) abort();
        run_node(g->nodes[pick]);
        done[pick] = 1;
    }
    free(done);
}

static void forget(const graph *g) {
    for (int k = 0; k < g->count; ++k)
        if (g->nodes[k]->body) g->nodes[k]->condition->set = 0, forget(g->nodes[k]->body);
}

static void flush(void) {
    while (queue) {
        work *w = queue;
        queue = w->next;
        if (w->graph) forget(w->graph), run_graph(w->graph), free_graph(w->graph);
        else memcpy(w->to, w->read ? w->read : w->from, w->size);
        free(w->from), free(w);
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

int cuModuleLoadData(void **m, const void *image) { HERE(memcmp(image, "fake cubin", 10) && memcmp(image, ".version", 8) ? 209 : (*m = strdup(image), OK)); }
int cuModuleUnload(void *m) { HERE((free(m), OK)); }
static int find(void **f, const char *module, const char *name) {
    if (!strncmp(name, "vtc_flow_", 9) != (*module == '.') || (*module == '.' && !strstr(module, name))) return NOT_FOUND;
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; ++i)
        if (!strcmp(KERNELS[i].name, name)) return *f = (void *)(uintptr_t)(KERNELS + i), OK;
    return NOT_FOUND;
}
int cuModuleGetFunction(void **f, void *m, const char *name) { HERE(find(f, m, name)); }
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
int cuGraphDestroy(void *g) { HERE((free_graph(g), OK)); }

static void set_kernel(node *n, const kernel_params *p) {
    n->kernel = *p, n->what = p->function;
    for (int i = 0; i < n->what->words; ++i) n->words[i] = *(uint64_t *)p->params[i];
}
static int add_node(node **out, graph *g, void *const *after, size_t count) {
    if (count > MOST) return INVALID;
    node *n = calloc(1, sizeof *n);
    for (size_t i = 0; i < count; ++i) {
        const node *before = after[i];
        if (before->number >= g->count || g->nodes[before->number] != before) return free(n), INVALID;
        n->after[i] = before->number;
    }
    n->count = count, n->number = g->count;
    g->nodes = realloc(g->nodes, ((size_t)g->count + 1) * sizeof *g->nodes);
    return *out = g->nodes[g->count++] = n, OK;
}
static int add_kernel(node **out, graph *g, void *const *after, size_t count, const kernel_params *p) {
    const int code = add_node(out, g, after, count);
    return code ? code : (set_kernel(*out, p), OK);
}
static int add_copy(node **out, graph *g, void *const *after, size_t count, const copy_params *p, const void *c) {
    if (c != &context || g->inside || p->source.type != 4 || p->target.type != 4 || p->height != 1 || p->depth != 1) return INVALID;
    const int code = add_node(out, g, after, count);
    return code ? code : ((*out)->copy = *p, OK);
}
static int add_fork(node **out, graph *g, void *const *after, size_t count, fork_params *p) {
    condition *c = (condition *)(uintptr_t)p->handle;
    static const char none[sizeof p->rest];
    if (p->type != 13 || p->size != 1 || p->context != &context || p->kind < 0 || p->kind > 1 || memcmp(p->rest, none, sizeof none)) return INVALID;
    if (c->owner != g || c->used) return INVALID_HANDLE;
    const int code = add_node(out, g, after, count);
    if (code) return code;
    c->used = 1, (*out)->condition = c, (*out)->loop = p->kind, (*out)->body = calloc(1, sizeof(graph));
    (*out)->body->inside = 1;
    return p->graphs = (void **)&(*out)->body, OK;
}
int cuGraphAddKernelNode_v2(void **out, void *g, void *const *after, size_t count, const kernel_params *p) { HERE(add_kernel((node **)out, g, after, count, p)); }
int cuGraphAddMemcpyNode(void **out, void *g, void *const *after, size_t count, const copy_params *p, void *c) { HERE(add_copy((node **)out, g, after, count, p, c)); }
int cuGraphAddNode(void **out, void *g, void *const *after, size_t count, fork_params *p) { HERE(add_fork((node **)out, g, after, count, p)); }

/* Conditions stay: work that is still to be done may ask for them. */
static condition *conditions[CONDITIONS];
static int condition_count;
static int make_condition(uint64_t *out, void *g, const void *c, unsigned first, unsigned flags) {
    if (c != &context || first || flags || condition_count == CONDITIONS) return INVALID;
    condition *made = conditions[condition_count++] = calloc(1, sizeof *made);
    return made->owner = g, *out = (uint64_t)(uintptr_t)made, OK;
}
int cuGraphConditionalHandleCreate(uint64_t *out, void *g, void *c, unsigned first, unsigned flags) { HERE(make_condition(out, g, c, first, flags)); }

/* An executable has nodes of its own. */
static node *made_from(const graph *x, const node *n) {
    for (int k = 0; k < x->count; ++k) {
        node *found = x->nodes[k]->source == n ? x->nodes[k] : x->nodes[k]->body ? made_from(x->nodes[k]->body, n) : NULL;
        if (found) return found;
    }
    return NULL;
}
static int change(const graph *x, const node *n, const kernel_params *k, const copy_params *c) {
    node *found = made_from(x, n);
    if (!found || found->body || !found->what != !k) return INVALID_HANDLE;
    if (k) set_kernel(found, k);
    else found->copy = *c;
    return OK;
}
int cuGraphInstantiateWithFlags(void **x, void *g, unsigned long long flags) { HERE(flags ? INVALID : (*x = copied(g), OK)); }
int cuGraphExecDestroy(void *x) { HERE((free_graph(x), OK)); }
int cuGraphExecKernelNodeSetParams_v2(void *x, void *n, const kernel_params *p) { HERE(change(x, n, p, NULL)); }
int cuGraphExecMemcpyNodeSetParams(void *x, void *n, const copy_params *p, void *c) { HERE(c != &context ? INVALID : change(x, n, NULL, p)); }
static int launch(graph *x, void *stream) {
    work *w = calloc(1, sizeof *w);
    w->stream = stream, w->graph = x;
    return push_work(w), OK;
}
int cuGraphLaunch(void *x, void *s) { HERE(launch(copied(x), s)); }

/* A launch or a copy by itself. */
static int launch_one(void *stream, const kernel_params *k, const copy_params *c) {
    graph *g = calloc(1, sizeof *g);
    node *n;
    add_node(&n, g, NULL, 0);
    if (k) set_kernel(n, k);
    else n->copy = *c;
    return launch(g, stream);
}
int cuLaunchKernel(void *f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s, void **params, void **extra) {
    const kernel_params p = {.function = f, .grid = {x, y, z}, .block = {bx, by, bz}, .shared = shared, .params = params};
    HERE(extra || by != 1 || bz != 1 || !x || !y || !z ? INVALID : launch_one(s, &p, NULL));
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *s) {
    copy_params p = {.width = n};
    p.target.device = to, p.source.device = from;
    HERE(n ? launch_one(s, NULL, &p) : INVALID);
}
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
