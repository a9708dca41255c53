/* Part of vtc_runtime.c: plans as CUDA graphs.
 *
 * What waits for what, the plan says; in the body of a conditional node each node waits for the one before. A call compares the
 * address in each slot with the one that the nodes have, changes the words that follow from it, tells the driver about the nodes that
 * have them, and launches. Launches before it keep what they were given. */
#ifndef VTC_GRAPH_H
#define VTC_GRAPH_H

static vtc_kernel_params vtc_params_of(const vtc_replay *r, const vtc_node *n) {
    vtc_kernel_params p;
    memset(&p, 0, sizeof p);
    p.function = n->kernel->function;
    for (int a = 0; a < 3; ++a) p.grid[a] = n->grid[a], p.block[a] = 1;
    p.block[0] = (unsigned)(VTC_WARP * n->kernel->warps);
    p.shared = (unsigned)n->kernel->shared;
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

/* What is there while nodes are made: the graphs by number, of each body its last node, the handles of conditions. */
typedef struct vtc_maker {
    const vtc_cuda *driver;
    vtc_replay *replay;
    void **graphs, **last;
    uint64_t *handles;
    char *made;
} vtc_maker;

/* A handle belongs to the graph of its conditional node: there its condition is set first. */
static int vtc_steer(vtc_maker *m, const vtc_node *n) {
    const vtc_cuda *g = m->driver;
    const int code = m->made[n->flag] ? 0 : g->handle(m->handles + n->flag, m->graphs[n->graph], g->context, 0, 0);
    m->made[n->flag] = !code;
    m->replay->words[n->word + 1] = m->handles[n->flag];
    return code;
}

static int vtc_create_node(vtc_maker *m, vtc_node *n, vtc_ends after) {
    const vtc_cuda *g = m->driver;
    void *graph = m->graphs[n->graph];
    if (n->body) return vtc_add_fork(g, &n->handle, graph, after.nodes, after.count, m->handles[n->flag], n->loop, m->graphs + n->body);
    if (n->kernel) {
        const int code = n->flag < 0 ? 0 : vtc_steer(m, n);
        const vtc_kernel_params p = vtc_params_of(m->replay, n);
        return code ? code : g->add_kernel(&n->handle, graph, after.nodes, after.count, &p);
    }
    const vtc_copy_params p = vtc_copy_of(m->replay, n);
    return g->add_copy(&n->handle, graph, after.nodes, after.count, &p, g->context);
}

/* The nodes of a step of the plan, from `*node` on; gives those that are last. */
static vtc_ends vtc_create_step(vtc_fault *f, vtc_maker *m, int64_t k, vtc_node **node, vtc_ends before) {
    for (const vtc_node *end = m->replay->nodes + m->replay->node_count; *node < end && (*node)->top == k; ++*node) {
        vtc_node *n = *node;
        void **last = m->last + n->graph;
        const vtc_ends inside = {last, *last != NULL};
        vtc_cu(f, m->driver, vtc_create_node(m, n, n->graph ? inside : before), n->kernel ? n->kernel->symbol : n->body ? "cuGraphAddNode" : "cuGraphAddMemcpyNode");
        if (n->graph) *last = n->handle;
        else before = (vtc_ends){&n->handle, 1};
    }
    return before;
}

static void vtc_create(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_plan *n = c->plan;
    const size_t graphs = (size_t)r->body_count + 1, flags = (size_t)r->flag_count;
    vtc_ends *ends = vtc_make(f, &r->making, (size_t)n->step_count, sizeof *ends);
    vtc_maker m = {.driver = g, .replay = r, .graphs = vtc_make(f, &r->making, graphs, sizeof *m.graphs), .last = vtc_make(f, &r->making, graphs, sizeof *m.last)};
    m.handles = vtc_make(f, &r->making, flags, sizeof *m.handles), m.made = vtc_make(f, &r->making, flags, 1);
    vtc_cu(f, g, g->graph(&r->graph, 0), "cuGraphCreate");
    m.graphs[0] = r->graph;
    vtc_node *node = r->nodes;
    for (int64_t k = 0; k < n->step_count; ++k) ends[k] = vtc_create_step(f, &m, k, &node, vtc_before(f, &r->making, n->steps + k, ends));
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
    if (n->kernel) {
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

/* Copy what kernels find in the arena: tables, if they have changed, and the numbers of the call. */
static int vtc_send(vtc_call *c, const vtc_replay *r, int tables) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_instance *i = c->instance;
    const uint64_t arena = (uint64_t)(uintptr_t)i->arena;
    int code = tables ? g->write(arena + (uint64_t)r->tables, r->words, 8 * (size_t)r->table_words, c->stream) : 0;
    if (!code && c->numbers) code = g->write(arena + (uint64_t)r->numbers, i->numbers, VTC_CELL * (size_t)c->numbers, c->stream);
    return code;
}

static void vtc_play(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_instance *i = c->instance;
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
    if (!code) code = vtc_send(c, r, tables);
    if (!code) code = g->launch(r->executable, c->stream);
    if (code) vtc_forget(r); /* the nodes may have anything now */
    vtc_cu(f, g, code, c->entry->name);
}

#endif
