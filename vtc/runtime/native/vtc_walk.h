/* Part of vtc_runtime.c: loops and branches that the host walks through, launching node after node.
 *
 * So it is where graphs cannot have them, and with VTC_CUDA_GRAPHS=0. A loop that counts costs its launches. A byte that decides is
 * copied to the host, which waits for it. An index out of its range shows where the host has waited: a loop that it would not end,
 * ends. */
#ifndef VTC_WALK_H
#define VTC_WALK_H

typedef struct vtc_walker {
    vtc_fault *fault;
    vtc_call *call;
    vtc_replay *replay;
} vtc_walker;

/* In vtc_cuda.h. */
static void vtc_look(vtc_fault *, const vtc_instance *);

/* The address of a place in these turns. */
static uint64_t vtc_at(const vtc_walker *w, const vtc_ref *ref, const vtc_turn *turns) {
    return w->replay->known[vtc_slot_of(w->call->plan, ref)] + (uint64_t)vtc_offset_of(w->fault, ref, turns, w->call->plan_dims);
}

/* Let the node of a step have the addresses of these turns. */
static int vtc_turn_words(const vtc_walker *w, const vtc_step *s, const vtc_node *n, const vtc_turn *turns) {
    vtc_replay *r = w->replay;
    int moved = 0;
    for (int64_t i = 0; i < s->arg_count; ++i) {
        if (!s->args[i].moves) continue;
        r->words[n->table < 0 ? n->word + i : n->table + i] = vtc_at(w, s->args + i, turns);
        moved = 1;
    }
    return moved && n->table >= 0 ? vtc_send(w->call, r, 1) : 0;
}

static void vtc_launch_one(const vtc_walker *w, const vtc_step *s, const vtc_turn *turns) {
    const vtc_cuda *g = w->call->package->cuda;
    const vtc_replay *r = w->replay;
    void *stream = w->call->stream;
    if (r->node_of[s->index] < 0) return; /* it does not happen */
    const vtc_node *n = r->nodes + r->node_of[s->index];
    int code = vtc_turn_words(w, s, n, turns);
    if (!code && !n->kernel) code = g->move(r->words[n->word], r->words[n->word + 1], (size_t)n->bytes, stream);
    if (!code && n->kernel) {
        const vtc_kernel_params p = vtc_params_of(r, n);
        code = g->run(p.function, p.grid[0], p.grid[1], p.grid[2], p.block[0], p.block[1], p.block[2], p.shared, stream, p.params, NULL);
    }
    char what[160];
    snprintf(what, sizeof what, "%.70s%s%.80s", n->kernel ? n->kernel->symbol : "cuMemcpyDtoDAsync", *s->note ? " at " : "", s->note);
    vtc_cu(w->fault, g, code, what);
}

/* Whether the byte that decides is not 0, once all before has run. */
static int vtc_holds(const vtc_walker *w, const vtc_step *s, const vtc_turn *turns) {
    const vtc_call *c = w->call;
    const vtc_cuda *g = c->package->cuda;
    unsigned char *byte = &c->instance->cuda->byte;
    int code = g->read(byte, vtc_at(w, s->args, turns), 1, c->stream);
    if (!code) code = g->wait(c->stream);
    vtc_cu(w->fault, g, code, "waiting for a value that decides");
    vtc_look(w->fault, c->instance);
    return *byte != 0;
}

/* Whether anything happens in these steps. */
static int vtc_busy(const vtc_replay *r, vtc_steps all) {
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) {
        const int flat = s->kind == 'k' || s->kind == 'c';
        if (flat ? r->node_of[s->index] >= 0 : s->kind == 'w' || vtc_busy(r, s->inner[0]) || vtc_busy(r, s->inner[1])) return 1;
    }
    return 0;
}

static void vtc_walk_all(const vtc_walker *w, vtc_steps all, const vtc_turn *turns);

static void vtc_walk_loop(const vtc_walker *w, const vtc_step *s, const vtc_turn *outer) {
    const int64_t turns = vtc_busy(w->replay, s->inner[0]) ? vtc_size_at(w->fault, &s->turns, w->call->plan_dims) : 0;
    for (int64_t k = 0; k < turns; ++k) {
        const vtc_turn here = {outer, s, s->reverse ? turns - 1 - k : k, -1};
        vtc_walk_all(w, s->inner[0], &here);
    }
}

static void vtc_walk_all(const vtc_walker *w, vtc_steps all, const vtc_turn *turns) {
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) {
        if (s->kind == 'k' || s->kind == 'c') vtc_launch_one(w, s, turns);
        else if (s->kind == 'f') vtc_walk_loop(w, s, turns);
        else if (s->kind == 'b') vtc_walk_all(w, s->inner[!vtc_holds(w, s, turns)], turns);
        else
            for (vtc_walk_all(w, s->inner[0], turns); vtc_holds(w, s, turns); vtc_walk_all(w, s->inner[0], turns)) vtc_walk_all(w, s->inner[1], turns);
    }
}

static void vtc_walk(vtc_fault *f, vtc_call *c, vtc_replay *r) {
    const vtc_walker w = {f, c, r};
    vtc_stream_state *s = c->instance->cuda;
    int tables = s->held != r->number && r->table_words;
    s->held = 0; /* until all of it was launched */
    for (int64_t queued = vtc_update(r, c->instance->table, &tables); queued--;) r->nodes[r->queue[queued]].changed = 0;
    vtc_cu(f, c->package->cuda, vtc_send(c, r, tables), c->entry->name);
    vtc_walk_all(&w, (vtc_steps){c->plan->steps, c->plan->step_count}, NULL);
    s->held = r->number;
}

#endif
