/* Part of vtc_runtime.c: the kernels of a plan on a GPU, and those of ours that steer conditional nodes. */
#ifndef VTC_KERNELS_H
#define VTC_KERNELS_H

enum { VTC_WARP = 32, VTC_STATIC_SHARED = 48 << 10, VTC_CONDITIONAL = 12040, VTC_CONTROLS = 4 };

/* Which kernel of vtc_control.h. */
enum { VTC_TEST, VTC_BEGIN, VTC_NEXT, VTC_MOVE };

/* The module that an image says, which is that of a member, or PTX of ours. */
static int vtc_load_module(vtc_fault *f, vtc_package *p, const vtc_member *m, const void *image, void **handle) {
    vtc_cuda *g = p->cuda;
    vtc_module *made = vtc_make(f, &p->zone, 1, sizeof *made);
    made->member = m;
    const int code = g->load(&made->handle, image);
    if (code) return code;
    made->next = g->modules, g->modules = made;
    *handle = made->handle;
    return 0;
}

static void *vtc_module_of(vtc_fault *f, vtc_package *p, const vtc_member *m) {
    for (const vtc_module *i = p->cuda->modules; i; i = i->next)
        if (i->member == m) return i->handle;
    void *handle = NULL;
    vtc_cu(f, p->cuda, vtc_load_module(f, p, m, m->data, &handle), m->name);
    return handle;
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

/* ---- conditional nodes ---- */

/* Make a conditional node, whose body goes to `*body`. Some devices cannot have any. */
static int vtc_add_fork(const vtc_cuda *g, void **node, void *graph, void *const *after, size_t count, uint64_t handle, int loop, void **body) {
    vtc_fork_params p;
    memset(&p, 0, sizeof p);
    p.type = VTC_CU_GRAPH_NODE_TYPE_CONDITIONAL;
    p.kind = loop ? VTC_CU_GRAPH_COND_TYPE_WHILE : VTC_CU_GRAPH_COND_TYPE_IF;
    p.handle = handle, p.size = 1, p.context = g->context;
    const int code = g->add_fork(node, graph, after, count, &p);
    if (!code) *body = p.graphs[0];
    return code;
}

static int vtc_try_fork(const vtc_cuda *g) {
    void *graph, *node, *body;
    uint64_t handle;
    int code = g->graph(&graph, 0);
    if (code) return code;
    code = g->handle(&handle, graph, g->context, 0, 0);
    if (!code) code = vtc_add_fork(g, &node, graph, NULL, 0, handle, 0, &body);
    g->free_graph(graph);
    return code;
}

/* Load the kernels that steer, whose source is PTX: the driver compiles it. */
static int vtc_load_control(vtc_fault *f, vtc_package *p) {
    vtc_cuda *g = p->cuda;
    for (int i = 0; i < VTC_CONTROLS; ++i) {
        void *module;
        g->control[i].symbol = VTC_CONTROL[i].symbol, g->control[i].warps = VTC_CONTROL[i].warps;
        int code = vtc_load_module(f, p, NULL, VTC_CONTROL[i].source, &module);
        if (!code) code = g->function(&g->control[i].function, module, VTC_CONTROL[i].symbol);
        if (code) return code;
    }
    return 0;
}

/* Whether graphs can have conditional nodes here: `why` says why not. */
static void vtc_find_control(vtc_fault *f, vtc_package *p) {
    vtc_cuda *g = p->cuda;
    const char *name = NULL;
    if (g->control) return;
    g->control = vtc_make(f, &p->zone, VTC_CONTROLS, sizeof *g->control);
    if (!g->graphs) {
        snprintf(g->why, sizeof g->why, "VTC_CUDA_GRAPHS is 0");
        return;
    }
    if (g->version < VTC_CONDITIONAL || !g->handle || !g->add_fork) {
        snprintf(g->why, sizeof g->why, "expected an NVIDIA driver for CUDA 12.4 or newer, found one for CUDA %d.%d", g->version / 1000, g->version % 1000 / 10);
        return;
    }
    int code = vtc_load_control(f, p);
    if (!code) code = vtc_try_fork(g);
    if (!code) return;
    g->name(code, &name);
    snprintf(g->why, sizeof g->why, "expected a GPU and a driver with conditional nodes, got %.80s (CUDA error %d)", name ? name : "a failure", code);
}

/* ---- a plan ---- */

typedef struct vtc_linked {
    vtc_plan *plan;
    const vtc_json *kernels;
} vtc_linked;

static void vtc_link_kernels(vtc_fault *f, vtc_package *p, void *what) {
    const vtc_linked *l = what;
    if (l->plan->flows) vtc_find_control(f, p);
    for (vtc_code_of *k = l->plan->kernels; k < l->plan->kernels + l->plan->kernel_count; ++k) {
        const vtc_json *about = vtc_find(l->kernels, k->symbol);
        if (!about) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected a kernel %.100s in the manifest, got none", l->plan->name, k->symbol);
        vtc_link_kernel(f, p, k, about);
    }
}

static void vtc_link_cuda(vtc_fault *f, vtc_package *p, vtc_plan *n, const vtc_json *plan) {
    vtc_linked l = {n, vtc_get(f, n->name, plan, "kernels", VTC_OBJECT)};
    vtc_on_gpu(f, p, vtc_link_kernels, &l);
}

#endif
