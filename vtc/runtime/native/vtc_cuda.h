/* Part of vtc_runtime.c: calls on a GPU, and what they keep for each stream. */
#ifndef VTC_CUDA_H
#define VTC_CUDA_H

enum { VTC_GRAPHS = 32 };

/* ---- memory ---- */

static void vtc_enter_gpu(vtc_fault *f, vtc_call *c) {
    vtc_cu(f, c->package->cuda, vtc_push(c->package), "cuCtxPushCurrent");
    c->entered = 1;
}

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

static void vtc_leave_gpu(vtc_call *c) {
    /* A copy may still be under way, whatever failed. */
    if (c->stand_in_count || c->fetching) c->package->cuda->wait(c->stream);
    for (int64_t i = 0; i < c->stand_in_count; ++i) vtc_free_device(c->package, c->stand_ins[i].device, c->stand_ins[i].bytes, c->stream);
    free(c->stand_ins);
    if (c->making) vtc_free_replay(c->package->cuda, c->making);
    vtc_pop(c->package);
}

/* ---- a call ---- */

/* An index that a launch before met outside its axis, once. */
static void vtc_look(vtc_fault *f, const vtc_instance *i) {
    volatile int32_t *cells = i->cuda ? i->cuda->cells : NULL;
    const char *note = NULL;
    for (const vtc_step *s = i->plan->checking; cells && s; s = s->next_checking) {
        volatile int32_t *at = cells + s->cell * (VTC_CELL / 4);
        if (*at && !note) note = s->note;
        if (*at) *at = 0;
    }
    if (note) vtc_fail(f, VTC_OUT_OF_RANGE, "index: expected an index inside its axis, got one outside it%s%s", *note ? "\n  at " : "", note);
}

static void vtc_prepare(vtc_fault *f, vtc_call *c) {
    vtc_instance *i = c->instance;
    const int64_t cells = c->plan->cell_count;
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
    if (r->node_count && r->walks) vtc_walk(f, c, r);
    else if (r->node_count) vtc_play(f, c, r);
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
