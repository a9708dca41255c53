/* Part of vtc_runtime.c: what becomes of the steps of a plan at given sizes: nodes, and the words that are their arguments.
 *
 * Memory is named by slots: the inputs, the outputs, then the arena; an output that overwrites an input has that input's slot. The
 * arguments of all nodes are 64-bit words; some hold addresses. Steps without bytes or blocks are left out. Behind what the plan
 * keeps in the arena lie scratch memory of kernels, the turns of loops, numbers that are given with a call, and the tables of kernels
 * that take their pointers from one.
 *
 * With loops and branches it is as in Python (vtc/runtime/cuda/nodes.py). Short loops that count are spelled out, turn by turn. Long
 * ones, and what waits for a byte on the device, are conditional nodes, whose bodies have kernels alone: copies too, which may move
 * with the loops around. Where there are no conditional nodes the host walks through the steps, and each launch and copy is a node
 * once. It also does so where a graph would have too many. */
#ifndef VTC_LAYOUT_H
#define VTC_LAYOUT_H

enum { VTC_TURN = 8 };
#ifndef VTC_MOST_NODES
#define VTC_MOST_NODES (1 << 16) /* of a graph: 4 us and 8 KB each */
#endif

/* A launch, a copy, or a conditional node. What steers one is a launch without a step. */
typedef struct vtc_node {
    void *handle;
    const vtc_step *step;
    const vtc_code_of *kernel; /* null: not a launch */
    unsigned grid[3];
    int64_t bytes, word, table; /* its first word, and in tables; -1: none */
    int64_t top, graph;         /* the step of the plan that it is of; the graph that it is in: 0, or a body */
    int64_t flag, body;         /* the condition that it sets or waits for, or -1; of a conditional node, its body */
    int loop, changed;
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
    int64_t *node_of;       /* where the host walks: the node of each launch and copy, or -1 */
    uint64_t *words, *known;
    void **params; /* the address of each word */
    int64_t node_count, site_count, word_count, slots, table_words, body_count, flag_count;
    int64_t numbers, tables, arena; /* where these begin in the arena, and its bytes */
    uint64_t number;
    void *graph, *executable;
    int walks;
} vtc_replay;

typedef struct vtc_stream_state {
    vtc_replay *replays; /* the last used first */
    uint64_t made, held; /* how many there were; the number of the last one that had the arena: only its tables are there */
    volatile int32_t *cells;
    unsigned char byte; /* one that decides, on its way from the device */
} vtc_stream_state;

/* The turn of a loop around a step: `turn`, or what lies in the arena at `counter`, if that is not -1. */
typedef struct vtc_turn {
    const struct vtc_turn *outer;
    const vtc_step *loop;
    int64_t turn, counter;
} vtc_turn;

/* Where a step is: in which step of the plan, which graph, how many loops that count on the device, which turns. */
typedef struct vtc_where {
    int64_t top, graph, levels;
    const vtc_turn *turns;
} vtc_where;

typedef struct vtc_layout {
    vtc_fault *fault;
    vtc_call *call;
    vtc_replay *replay;
    const vtc_plan *plan;
    const int64_t *dims;
    int64_t *scratch; /* of each launch, 1 + where its scratch memory lies: all turns share it */
    int64_t end;
    int forks; /* there may be conditional nodes */
} vtc_layout;

static int64_t vtc_rounded(vtc_fault *f, int64_t n, int64_t to) {
    if (n > VTC_MOST) vtc_fail(f, VTC_BAD_PACKAGE, "expected scratch memory of less than 2^62 bytes, got more");
    return (n + to - 1) / to * to;
}

/* Memory in the arena behind all that was taken before. */
static int64_t vtc_reserve(vtc_layout *l, int64_t bytes, int64_t alignment) {
    const int64_t at = vtc_rounded(l->fault, l->end, alignment > VTC_CELL ? alignment : VTC_CELL);
    if (__builtin_add_overflow(at, bytes, &l->end)) l->end = INT64_MAX;
    vtc_rounded(l->fault, l->end, 1);
    return at;
}

static int64_t vtc_slot_of(const vtc_plan *n, const vtc_ref *ref) {
    if (ref->kind == 'i') return ref->index;
    if (ref->kind == 'a') return n->input_count + n->output_count;
    return n->over[ref->index] >= 0 ? n->over[ref->index] : n->input_count + ref->index;
}

/* How far behind the address in its slot `ref` lies, in these turns; it moves with the loops that have none. */
static int64_t vtc_offset_of(vtc_fault *f, const vtc_ref *ref, const vtc_turn *turns, const int64_t *dims) {
    int64_t at = ref->kind == 'a' ? vtc_size_at(f, &ref->offset, dims) : 0;
    for (const vtc_shift *m = ref->moves; m; m = m->next)
        for (const vtc_turn *t = turns; t; t = t->outer)
            if (t->loop == m->loop && t->counter < 0) at += t->turn * vtc_size_at(f, &m->step, dims);
    return at;
}

/* ---- nodes and words ---- */

/* A list with room for one more item. */
static void *vtc_grown(vtc_layout *l, void *items, int64_t count, size_t size) {
    enum { FIRST = 64 };
    if (count && (count < FIRST || (count & (count - 1)))) return items;
    void *more = vtc_make(l->fault, &l->replay->making, count ? 2 * (size_t)count : FIRST, size);
    return count ? memcpy(more, items, (size_t)count * size) : more;
}

static vtc_node *vtc_add_node(vtc_layout *l, const vtc_where *w, const vtc_step *s, const vtc_code_of *kernel) {
    vtc_replay *r = l->replay;
    r->nodes = vtc_grown(l, r->nodes, r->node_count, sizeof *r->nodes);
    if (r->node_of && s) r->node_of[s->index] = r->node_count;
    vtc_node *node = r->nodes + r->node_count++;
    *node = (vtc_node){.step = s, .kernel = kernel, .grid = {1, 1, 1}, .word = r->word_count, .table = -1, .top = w->top, .graph = w->graph, .flag = -1};
    return node;
}

static void vtc_add_word(vtc_layout *l, int64_t value) {
    vtc_replay *r = l->replay;
    r->words = vtc_grown(l, r->words, r->word_count, sizeof *r->words);
    r->words[r->word_count++] = (uint64_t)value;
}

static void vtc_add_site(vtc_layout *l, int64_t slot, int64_t word, int64_t add, int64_t node) {
    vtc_replay *r = l->replay;
    r->sites = vtc_grown(l, r->sites, r->site_count, sizeof *r->sites);
    r->sites[r->site_count++] = (vtc_site){slot, word, add, node};
}

/* An address among the words of the last node. */
static void vtc_add_address(vtc_layout *l, int64_t slot, int64_t add) {
    vtc_add_site(l, slot, l->replay->word_count, add, l->replay->node_count - 1);
    vtc_add_word(l, 0);
}

static void vtc_add_place(vtc_layout *l, const vtc_ref *ref, const vtc_turn *turns) {
    vtc_add_address(l, vtc_slot_of(l->plan, ref), vtc_offset_of(l->fault, ref, turns, l->dims));
}

/* Whether a launch has blocks; how many, in `grid`. */
static int vtc_blocks(const vtc_layout *l, const vtc_step *s, unsigned grid[3]) {
    static const int64_t most[3] = {INT32_MAX, 65535, 65535};
    int blocks = 1;
    for (int a = 0; a < 3; ++a) {
        const int64_t n = vtc_size_at(l->fault, s->grid + a, l->dims);
        if (n > most[a]) vtc_fail(l->fault, VTC_BAD_ARGUMENT, "%s: expected sizes with at most %" PRId64 " blocks along axis %d of a grid, got %" PRId64, s->kernel->symbol, most[a], a, n);
        grid[a] = (unsigned)n;
        blocks &= n > 0;
    }
    return blocks;
}

/* Where the scratch memory of a launch lies. */
static int64_t vtc_scratch_of(vtc_layout *l, const vtc_step *s, const unsigned grid[3]) {
    int64_t bytes = s->kernel->scratch; /* of each block */
    if (l->scratch[s->index]) return l->scratch[s->index] - 1;
    for (int a = 0; a < 3; ++a)
        if (__builtin_mul_overflow(bytes, (int64_t)grid[a], &bytes)) bytes = INT64_MAX;
    const int64_t at = vtc_reserve(l, bytes, s->kernel->alignment);
    l->scratch[s->index] = at + 1;
    return at;
}

static void vtc_add_launch(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    unsigned grid[3];
    vtc_replay *r = l->replay;
    if (!vtc_blocks(l, s, grid)) return;
    vtc_node *node = vtc_add_node(l, w, s, s->kernel);
    memcpy(node->grid, grid, sizeof grid);
    /* The words of tables come first, so those of nodes are numbered from their end on. */
    if (s->kernel->table) node->table = r->table_words;
    for (const vtc_ref *ref = s->args; ref < s->args + s->arg_count; ++ref) {
        if (!s->kernel->table) vtc_add_place(l, ref, w->turns);
        else vtc_add_site(l, vtc_slot_of(l->plan, ref), r->table_words++, vtc_offset_of(l->fault, ref, w->turns, l->dims), -1);
    }
    if (s->kernel->table) vtc_add_word(l, 0);
    for (int64_t i = 0; i < s->size_count; ++i) vtc_add_word(l, vtc_value_at(l->fault, s->sizes + i, l->dims));
    if (s->kernel->checks) vtc_add_word(l, (int64_t)(uintptr_t)l->call->instance->cuda->cells + VTC_CELL * s->cell);
    if (s->kernel->scratch) vtc_add_address(l, r->slots - 1, vtc_scratch_of(l, s, grid));
    else vtc_add_word(l, 0);
    vtc_add_word(l, 0);
}

static void vtc_add_copy(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    const int64_t bytes = vtc_size_at(l->fault, &s->bytes, l->dims);
    if (!bytes) return;
    vtc_add_node(l, w, s, NULL)->bytes = bytes;
    for (int i = 0; i < 2; ++i) vtc_add_place(l, s->args + i, w->turns);
}

/* ---- loops and branches in a graph ---- */

/* Whether anything happens in these steps. */
static int vtc_any(const vtc_layout *l, vtc_steps all) {
    unsigned grid[3];
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) {
        if (s->kind == 'w' || (s->kind == 'k' && vtc_blocks(l, s, grid)) || (s->kind == 'c' && vtc_size_at(l->fault, &s->bytes, l->dims))) return 1;
        if (s->kind == 'f' && !vtc_size_at(l->fault, &s->turns, l->dims)) continue;
        if (vtc_any(l, s->inner[0]) || vtc_any(l, s->inner[1])) return 1;
    }
    return 0;
}

/* The launches and copies of a step where loops that count are spelled out; it stops counting above VTC_SPELLED. */
static int64_t vtc_spelled(const vtc_layout *l, const vtc_step *s) {
    const int64_t turns = s->kind == 'f' ? vtc_size_at(l->fault, &s->turns, l->dims) : 1;
    int64_t inner = s->kind != 'f';
    for (int i = 0; turns && i < 2; ++i)
        for (const vtc_step *t = s->inner[i].steps; t < s->inner[i].steps + s->inner[i].count && inner <= VTC_SPELLED; ++t) inner += vtc_spelled(l, t);
    return inner && turns > VTC_SPELLED / inner ? VTC_SPELLED + 1 : turns * inner;
}

/* Whether the arguments of a node in these steps would change with the loop: then it must be spelled out. */
static int vtc_moves(vtc_steps all, const vtc_step *loop) {
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) {
        for (const vtc_ref *ref = s->args; s->kind != 'c' && ref < s->args + s->arg_count; ++ref)
            for (const vtc_shift *m = ref->moves; m; m = m->next)
                if (m->loop == loop) return 1;
        if (vtc_moves(s->inner[0], loop) || vtc_moves(s->inner[1], loop)) return 1;
    }
    return 0;
}

static int vtc_full(const vtc_layout *l) { return !l->replay->walks && l->replay->node_count > VTC_MOST_NODES; }

static void vtc_add_all(vtc_layout *, vtc_steps, const vtc_where *);

/* A node of ours without its words. */
static vtc_node *vtc_add_control(vtc_layout *l, const vtc_where *w, int kind) { return vtc_add_node(l, w, NULL, l->call->package->cuda->control + kind); }

/* A launch that sets a condition from what is at a place. The word behind that place is for the handle. */
static void vtc_add_set(vtc_layout *l, const vtc_where *w, int kind, int64_t slot, int64_t at, int64_t flag, const int64_t *numbers, int count) {
    vtc_add_control(l, w, kind)->flag = flag;
    vtc_add_address(l, slot, at);
    vtc_add_word(l, 0);
    for (int i = 0; i < count; ++i) vtc_add_word(l, numbers[i]);
    vtc_add_word(l, 0), vtc_add_word(l, 0);
}

static void vtc_add_test(vtc_layout *l, const vtc_where *w, const vtc_step *s, int64_t flag, int64_t wanted) {
    vtc_add_set(l, w, VTC_TEST, vtc_slot_of(l->plan, s->args), vtc_offset_of(l->fault, s->args, w->turns, l->dims), flag, &wanted, 1);
}

/* A conditional node; where its body is. */
static vtc_where vtc_add_body(vtc_layout *l, const vtc_where *w, int64_t flag, int loop) {
    vtc_where inner = *w;
    vtc_node *node = vtc_add_node(l, w, NULL, NULL);
    node->flag = flag, node->loop = loop;
    node->body = inner.graph = ++l->replay->body_count;
    return inner;
}

/* A copy in a body, by a kernel that reads the turns it moves with. */
static void vtc_add_mover(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    const int64_t bytes = vtc_size_at(l->fault, &s->bytes, l->dims), blocks = bytes / VTC_MOVE_BYTES + (bytes % VTC_MOVE_BYTES > 0);
    const vtc_turn *turns[VTC_LEVELS] = {NULL};
    int count = 0;
    if (!bytes) return;
    for (const vtc_turn *t = w->turns; t; t = t->outer)
        if (t->counter >= 0) turns[count++] = t;
    vtc_add_control(l, w, VTC_MOVE)->grid[0] = (unsigned)(blocks < VTC_MOVERS ? blocks : VTC_MOVERS);
    for (int i = 0; i < 2; ++i) vtc_add_place(l, s->args + i, w->turns);
    for (int i = 0; i < VTC_LEVELS; ++i) {
        if (turns[i]) vtc_add_address(l, l->replay->slots - 1, turns[i]->counter);
        else vtc_add_place(l, s->args, w->turns); /* it is not read */
    }
    vtc_add_word(l, bytes);
    for (int i = 0; i < 2 * VTC_LEVELS; ++i) {
        uint64_t by = 0; /* of a loop of one turn it may be anything */
        for (const vtc_shift *m = turns[i / 2] ? s->args[i % 2].moves : NULL; m; m = m->next)
            if (m->loop == turns[i / 2]->loop) by += (uint64_t)vtc_size_at(l->fault, &m->step, l->dims);
        vtc_add_word(l, (int64_t)by);
    }
    vtc_add_word(l, 0), vtc_add_word(l, 0);
}

/* A loop that counts on the device. */
static void vtc_add_kept(vtc_layout *l, const vtc_step *s, const vtc_where *w, int64_t turns) {
    const int64_t arena = l->replay->slots - 1, counter = vtc_reserve(l, VTC_TURN, VTC_TURN), flag = l->replay->flag_count++;
    const int64_t first = s->reverse ? turns - 1 : 0, further[2] = {s->reverse ? -1 : 1, s->reverse ? -1 : turns};
    const vtc_turn here = {w->turns, s, 0, counter};
    vtc_add_set(l, w, VTC_BEGIN, arena, counter, flag, &first, 1);
    vtc_where inner = vtc_add_body(l, w, flag, 1);
    inner.turns = &here, ++inner.levels;
    vtc_add_all(l, s->inner[0], &inner);
    vtc_add_set(l, &inner, VTC_NEXT, arena, counter, flag, further, 2);
}

static void vtc_add_counted(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    const int64_t turns = vtc_size_at(l->fault, &s->turns, l->dims);
    if (!turns || !vtc_any(l, s->inner[0])) return;
    if (l->forks && w->levels < VTC_LEVELS && vtc_spelled(l, s) > VTC_SPELLED && !vtc_moves(s->inner[0], s)) {
        vtc_add_kept(l, s, w, turns);
        return;
    }
    for (int64_t k = 0; k < turns && !vtc_full(l); ++k) {
        const vtc_turn here = {w->turns, s, s->reverse ? turns - 1 - k : k, -1};
        vtc_where inner = *w;
        inner.turns = &here;
        vtc_add_all(l, s->inner[0], &inner);
    }
}

static void vtc_add_repeated(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    const int64_t flag = l->replay->flag_count++;
    vtc_add_all(l, s->inner[0], w);
    vtc_add_test(l, w, s, flag, 1);
    const vtc_where inner = vtc_add_body(l, w, flag, 1);
    vtc_add_all(l, s->inner[1], &inner);
    vtc_add_all(l, s->inner[0], &inner);
    vtc_add_test(l, &inner, s, flag, 1);
}

/* Both conditions are set before anything is written: the byte may be overwritten then. */
static void vtc_add_branch(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    int64_t flags[2];
    for (int i = 0; i < 2; ++i) {
        flags[i] = vtc_any(l, s->inner[i]) ? l->replay->flag_count++ : -1;
        if (flags[i] >= 0) vtc_add_test(l, w, s, flags[i], !i);
    }
    for (int i = 0; i < 2; ++i) {
        if (flags[i] < 0) continue;
        const vtc_where inner = vtc_add_body(l, w, flags[i], 0);
        vtc_add_all(l, s->inner[i], &inner);
    }
}

/* Each launch and copy once. */
static void vtc_add_each(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    if (s->kind == 'f' && !vtc_size_at(l->fault, &s->turns, l->dims)) return;
    for (int i = 0; i < 2; ++i) vtc_add_all(l, s->inner[i], w);
}

static void vtc_add_step(vtc_layout *l, const vtc_step *s, const vtc_where *w) {
    if (vtc_full(l)) return;
    if (s->kind == 'k') vtc_add_launch(l, s, w);
    else if (s->kind == 'c' && !w->graph) vtc_add_copy(l, s, w);
    else if (s->kind == 'c') vtc_add_mover(l, s, w);
    else if (l->replay->walks) vtc_add_each(l, s, w);
    else if (s->kind == 'f') vtc_add_counted(l, s, w);
    else if (s->kind == 'w') vtc_add_repeated(l, s, w);
    else vtc_add_branch(l, s, w);
}

static void vtc_add_all(vtc_layout *l, vtc_steps all, const vtc_where *w) {
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) vtc_add_step(l, s, w);
}

/* ---- all of it ---- */

static int vtc_by_slot(const void *a, const void *b) {
    const vtc_site *x = a, *y = b;
    return x->slot != y->slot ? (x->slot < y->slot ? -1 : 1) : (x->word > y->word) - (x->word < y->word);
}

/* The same things where they stay. */
static void *vtc_settled(vtc_layout *l, const void *items, int64_t count, size_t size) {
    void *kept = vtc_make(l->fault, &l->replay->zone, (size_t)count + 1, size);
    return count ? memcpy(kept, items, (size_t)count * size) : kept;
}

/* Where everything lies: numbers and tables behind what kernels use; sites by slot. */
static void vtc_settle(vtc_layout *l) {
    vtc_replay *r = l->replay;
    const int64_t arena = r->slots - 1;
    r->numbers = vtc_rounded(l->fault, l->end, VTC_CELL);
    r->tables = r->numbers + VTC_CELL * l->call->numbers;
    r->arena = r->tables + 8 * r->table_words;
    for (vtc_site *s = r->sites; s < r->sites + r->site_count; ++s) {
        if (s->node < 0) s->node = r->node_count;
        else s->word += r->table_words;
    }
    for (int64_t k = 0; k < r->node_count; ++k) {
        r->nodes[k].word += r->table_words;
        if (r->nodes[k].table >= 0) vtc_add_site(l, arena, r->nodes[k].word, r->tables + 8 * r->nodes[k].table, k);
    }
    r->nodes = vtc_settled(l, r->nodes, r->node_count, sizeof *r->nodes);
    r->sites = vtc_settled(l, r->sites, r->site_count, sizeof *r->sites);
    const uint64_t *words = r->words;
    const int64_t count = r->word_count;
    r->word_count += r->table_words;
    r->words = vtc_make(l->fault, &r->zone, (size_t)r->word_count + 1, sizeof *r->words);
    if (count) memcpy(r->words + r->table_words, words, (size_t)count * sizeof *words);
    r->params = vtc_make(l->fault, &r->zone, (size_t)r->word_count + 1, sizeof *r->params);
    for (int64_t w = 0; w < r->word_count; ++w) r->params[w] = r->words + w;
    r->queue = vtc_make(l->fault, &r->zone, (size_t)r->node_count + 1, sizeof *r->queue);
    r->first = vtc_make(l->fault, &r->zone, (size_t)r->slots + 1, sizeof *r->first);
    r->known = vtc_make(l->fault, &r->zone, (size_t)r->slots, sizeof *r->known);
    if (r->site_count) qsort(r->sites, (size_t)r->site_count, sizeof *r->sites, vtc_by_slot);
    for (int64_t i = 0; i < r->site_count; ++i) ++r->first[r->sites[i].slot + 1];
    for (int64_t i = 0; i < r->slots; ++i) r->first[i + 1] += r->first[i];
    memset(r->known, -1, (size_t)r->slots * sizeof *r->known);
    vtc_free_zone(&r->making);
}

/* The nodes of all steps, as a graph or where the host walks. */
static void vtc_lay_out_as(vtc_fault *f, vtc_call *c, vtc_replay *r, int walks) {
    const vtc_plan *n = c->plan;
    vtc_layout l = {.fault = f, .call = c, .replay = r, .plan = n, .dims = c->plan_dims, .forks = !*c->package->cuda->why};
    vtc_free_zone(&r->making);
    r->walks = walks, l.end = vtc_size_at(f, &n->arena, l.dims);
    r->node_count = r->site_count = r->word_count = r->table_words = r->body_count = r->flag_count = 0;
    l.scratch = vtc_make(f, &r->making, (size_t)n->flat_count, sizeof *l.scratch);
    r->node_of = walks ? vtc_make(f, &r->zone, (size_t)n->flat_count, sizeof *r->node_of) : NULL;
    for (int64_t k = 0; walks && k < n->flat_count; ++k) r->node_of[k] = -1;
    for (int64_t k = 0; k < n->step_count; ++k) {
        const vtc_where w = {.top = k};
        vtc_add_step(&l, n->steps + k, &w);
    }
    if (!vtc_full(&l)) vtc_settle(&l);
}

static void vtc_lay_out(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_cuda *g = c->package->cuda;
    const vtc_plan *n = c->plan;
    r->slots = n->input_count + n->output_count + 1;
    memcpy(r->dims, c->plan_dims, sizeof r->dims);
    vtc_check_steps(f, n, (vtc_steps){n->steps, n->step_count}, c->plan_dims);
    vtc_lay_out_as(f, c, r, !g->graphs || (n->waits && *g->why));
    if (!r->walks && r->node_count > VTC_MOST_NODES) vtc_lay_out_as(f, c, r, 1);
}

#endif
