/* Part of vtc_runtime.c: a call of an entry: what it asks for, and what it works with.
 *
 * A call leases an instance of its plan: what is worked with at a time. There are at most VTC_INSTANCES; on the CPU any that is idle
 * will do, on a GPU each stream has its own. */
#ifndef VTC_CALL_H
#define VTC_CALL_H

enum { VTC_INSTANCES = 8, VTC_CELL = 16 };

/* Memory that a call writes, or reads while others may write it. */
typedef struct vtc_span_of {
    const char *from, *to;
    int write;
} vtc_span_of;

typedef struct vtc_claim {
    struct vtc_claim *next;
    const vtc_span_of *spans;
    int64_t count;
} vtc_claim;

typedef struct vtc_instance {
    struct vtc_instance *next;
    vtc_plan *plan;
    int busy;
    void **table;       /* the addresses of inputs and outputs, then that of the arena */
    unsigned char *numbers; /* a cell for each input: numbers on their way to kernels */
    vtc_tensor *made;   /* the outputs */
    int64_t *first;     /* of each output: the result that has its memory, or -1 */
    vtc_span_of *spans;
    void *arena;
    size_t arena_bytes;
    void *stream;
    struct vtc_stream_state *cuda;
} vtc_instance;

/* Device memory that stands in for memory of the host during a call: `count` elements of a list. */
typedef struct vtc_stand_in {
    void *device, *host;
    size_t bytes;
    int back; /* copy back after the call */
} vtc_stand_in;

typedef struct vtc_call {
    vtc_package *package;
    const char *name;
    const vtc_tensor *inputs;
    vtc_tensor *outputs;
    int32_t input_count, output_count;
    void *stream;
    const vtc_entry *entry;
    const vtc_variant *variant;
    vtc_plan *plan;
    vtc_instance *instance;
    vtc_claim claim;
    vtc_stand_in *stand_ins;
    int64_t stand_in_count;
    void *brought, *before; /* memory on its way to the caller; the context of the thread */
    int claimed, placed, entered, fetching;
    int64_t numbers; /* among the inputs */
    struct vtc_replay *making;
    int64_t dims[VTC_MOST_DIMS], plan_dims[VTC_MOST_DIMS];
} vtc_call;

/* Of the GPU: in vtc_cuda.h and the files before it. */
static void vtc_upload(vtc_fault *, vtc_package *);
static void vtc_reset_gpu(vtc_fault *, vtc_package *);
static void vtc_link_cuda(vtc_fault *, vtc_package *, vtc_plan *, const vtc_json *);
static void vtc_close_gpu(vtc_package *);
static void vtc_wait_for_gpu(vtc_package *);
static void vtc_wait(vtc_fault *, vtc_package *, void *stream);
static void *vtc_allocate_device(vtc_package *, size_t, void *stream);
static void vtc_free_device(vtc_package *, void *, size_t, void *stream);
static void *vtc_stand_in_for(vtc_fault *, vtc_call *, void *host, int64_t bytes, int copy, int back);
static void vtc_enter_gpu(vtc_fault *, vtc_call *);
static void vtc_leave_gpu(vtc_call *);
static void vtc_launch(vtc_fault *, vtc_call *);
static void vtc_free_stream(vtc_package *, vtc_instance *);
static int vtc_has_target(const vtc_json *, const char *);
static void vtc_move(vtc_fault *, vtc_package *, vtc_instance *, void *stream);
static void vtc_fetch(vtc_fault *, vtc_call *, void *host, const void *device, size_t bytes);

/* ---- memory ---- */

static void *vtc_allocate_host(const vtc_package *p, size_t bytes) {
    const vtc_allocator *a = p->cuda ? NULL : p->options.allocator;
    if (bytes > SIZE_MAX - 2 * VTC_ALIGNMENT) return NULL;
    bytes = bytes ? bytes : 1;
    if (a) return a->allocate(a->context, bytes, VTC_ALIGNMENT, NULL);
    return aligned_alloc(VTC_ALIGNMENT, (bytes + VTC_ALIGNMENT - 1) / VTC_ALIGNMENT * VTC_ALIGNMENT);
}

static void vtc_free_host(const vtc_package *p, void *memory, size_t bytes) {
    const vtc_allocator *a = p->cuda ? NULL : p->options.allocator;
    if (a) a->release(a->context, memory, bytes ? bytes : 1, NULL);
    else free(memory);
}

static void *vtc_allocate(vtc_package *p, size_t bytes, void *stream) { return p->cuda ? vtc_allocate_device(p, bytes, stream) : vtc_allocate_host(p, bytes); }

static void vtc_free(vtc_package *p, void *memory, size_t bytes, void *stream) {
    if (p->cuda) vtc_free_device(p, memory, bytes, stream);
    else vtc_free_host(p, memory, bytes);
}

/* Where memory of the package's device lies. */
static int32_t vtc_device_of(const vtc_package *p) { return p->cuda ? VTC_GPU(p->options.device) : VTC_CPU; }

static size_t vtc_alignment_of(const vtc_package *p, int32_t dtype) { return p->cuda ? VTC_CELL : (size_t)VTC_DTYPES[dtype].bytes; }

/* ---- what went wrong, in words ---- */

typedef struct vtc_words {
    char text[192];
} vtc_words;

static void vtc_add(vtc_words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void vtc_add(vtc_words *w, const char *format, ...) {
    const size_t n = strlen(w->text);
    va_list values;
    va_start(values, format);
    vsnprintf(w->text + n, sizeof w->text - n, format, values);
    va_end(values);
}

static void vtc_add_size(vtc_words *w, const vtc_size *s, const vtc_dim *dims) {
    const int64_t name = vtc_name_of(s);
    if (vtc_constant(s)) vtc_add(w, "%" PRId64, s->value);
    else vtc_add(w, "%s", name >= 0 ? dims[name].name : s->text);
}

/* `f32[B, 784]` */
static vtc_words vtc_type(int32_t dtype, int32_t rank, const vtc_size *shape, const vtc_dim *dims) {
    vtc_words w = {""};
    vtc_add(&w, "%s[%s", VTC_DTYPES[dtype].name, rank ? "" : "()");
    for (int32_t a = 0; a < rank; ++a) {
        if (a) vtc_add(&w, ", ");
        vtc_add_size(&w, shape + a, dims);
    }
    vtc_add(&w, "]");
    return w;
}

static vtc_words vtc_type_of(const vtc_tensor *t) {
    vtc_words w = {""};
    const int32_t rank = t->rank < 0 || t->rank > VTC_MAX_RANK ? 0 : t->rank;
    vtc_add(&w, "%s[%s", t->dtype < 0 || t->dtype > VTC_C128 ? "?" : VTC_DTYPES[t->dtype].name, rank ? "" : "()");
    for (int32_t a = 0; a < rank; ++a) vtc_add(&w, "%s%" PRId64, a ? ", " : "", t->shape[a]);
    vtc_add(&w, "]");
    return w;
}

static vtc_words vtc_range(const vtc_dim *d) {
    vtc_words w = {""};
    vtc_add(&w, "%s: Dim(%" PRId64 ", ", d->name, d->min);
    if (d->max == INT64_MAX) vtc_add(&w, "None");
    else vtc_add(&w, "%" PRId64, d->max);
    if (d->multiple != 1) vtc_add(&w, ", %" PRId64, d->multiple);
    vtc_add(&w, ")");
    return w;
}

static int vtc_fits(const vtc_dim *d, int64_t n) { return n >= d->min && n <= d->max && n % d->multiple == 0; }

/* In vtc_driver.h: see there. */
static const char *vtc_open_gpu(vtc_fault *, vtc_package *, const vtc_json *targets, const char *asked, int must, vtc_words *here);

/* ---- what is asked for ---- */

static const vtc_entry *vtc_entry_of(vtc_fault *f, const vtc_package *p, const char *name) {
    vtc_words w = {""};
    for (const vtc_entry *e = p->entries; e < p->entries + p->entry_count; ++e) {
        if (name && !strcmp(e->name, name)) return e;
        vtc_add(&w, "%s%s", *w.text ? ", " : "", e->name);
    }
    vtc_fail(f, VTC_BAD_ARGUMENT, "expected one of the entries %s, got \"%.100s\"", w.text, name ? name : "");
}

static void vtc_check_input(vtc_fault *f, const vtc_call *c, const vtc_given *g, const vtc_tensor *t) {
    const vtc_package *p = c->package;
    const int number = g->kind == 'n', good = number ? !t->rank && (t->dtype == VTC_F64 || t->dtype == VTC_F32 || t->dtype == VTC_I64) : t->dtype == g->dtype && t->rank == g->rank;
    if (!good) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s, got %s", g->name, number ? "a number: f64[()]" : vtc_type(g->dtype, g->rank, g->shape, c->entry->dims).text, vtc_type_of(t).text);
    int64_t bytes = VTC_DTYPES[t->dtype].bytes;
    for (int32_t a = 0; a < t->rank; ++a)
        if (t->shape[a] < 0 || __builtin_mul_overflow(bytes, t->shape[a], &bytes)) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected sizes of at least 0 and bytes of 64 bits, got %s", g->name, vtc_type_of(t).text);
    if (t->bytes < bytes || (bytes && !t->data)) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %" PRId64 " bytes for %s, got %" PRId64 "%s", g->name, bytes, vtc_type_of(t).text, t->bytes, t->data ? "" : " at a null pointer");
    if (t->device != VTC_CPU && (number || t->device != vtc_device_of(p)))
        vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected memory of %s, got that of device %d", g->name, number || !p->cuda ? "the CPU" : "the CPU or the GPU of the package", (int)t->device);
    const size_t alignment = t->device == VTC_CPU ? (size_t)VTC_DTYPES[t->dtype].bytes : vtc_alignment_of(p, t->dtype);
    if (bytes && !number && (uintptr_t)t->data % alignment) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected memory aligned to %zu bytes, got %p", g->name, alignment, t->data);
    if (g->written && t->read_only) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected memory to overwrite, got read-only memory", g->name);
}

/* The values of the dims; all inputs have the shapes that follow. */
static void vtc_bind(vtc_fault *f, vtc_call *c) {
    const vtc_entry *e = c->entry;
    for (int64_t d = 0; d < e->dim_count; ++d) c->dims[d] = -1;
    for (const vtc_given *g = e->inputs; g < e->inputs + e->input_count; ++g) {
        if (g->kind == 'c') continue;
        const vtc_tensor *t = c->inputs + g->position;
        vtc_check_input(f, c, g, t);
        for (int32_t a = 0; a < g->rank; ++a) {
            const int64_t d = vtc_name_of(g->shape + a);
            if (d < 0) continue;
            if (!vtc_fits(e->dims + d, t->shape[a])) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s, got %" PRId64, g->name, vtc_range(e->dims + d).text, t->shape[a]);
            if (c->dims[d] >= 0 && c->dims[d] != t->shape[a])
                vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s = %" PRId64 " as in another input, got %" PRId64, g->name, e->dims[d].name, c->dims[d], t->shape[a]);
            c->dims[d] = t->shape[a];
        }
    }
    for (const vtc_given *g = e->inputs; g < e->inputs + e->input_count; ++g)
        for (int32_t a = 0; a < g->rank; ++a)
            if (c->inputs[g->position].shape[a] != vtc_size_at(f, g->shape + a, c->dims))
                vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s, got %s", g->name, vtc_type(g->dtype, g->rank, g->shape, e->dims).text, vtc_type_of(c->inputs + g->position).text);
}

static void vtc_pick(vtc_fault *f, vtc_call *c) {
    const vtc_entry *e = c->entry;
    for (const vtc_variant *v = e->variants; v < e->variants + e->variant_count; ++v) {
        int fits = 1;
        for (int64_t d = 0; fits && d < e->dim_count; ++d) fits = vtc_fits(v->dims + d, c->dims[d]);
        if (!fits) continue;
        c->variant = v, c->plan = v->plan;
        return;
    }
    vtc_words w = {""};
    for (int64_t d = 0; d < e->dim_count; ++d) vtc_add(&w, "%s%s = %" PRId64, d ? ", " : "", e->dims[d].name, c->dims[d]);
    vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected sizes that the package has a plan for, got %s", e->name, w.text);
}

/* ---- instances ---- */

static vtc_instance *vtc_new_instance(const vtc_package *p, vtc_plan *n) {
    const size_t in = (size_t)n->input_count, out = (size_t)n->output_count;
    vtc_instance *i = calloc(1, sizeof *i);
    if (!i) return NULL;
    i->plan = n;
    i->table = calloc(in + out + 1, sizeof *i->table);
    i->numbers = aligned_alloc(VTC_CELL, VTC_CELL * (in + 1));
    i->made = calloc(out + 1, sizeof *i->made);
    i->first = calloc(out + 1, sizeof *i->first);
    i->spans = calloc(in + 1, sizeof *i->spans);
    if (!i->table || !i->numbers || !i->made || !i->first || !i->spans) {
        free(i->table), free(i->numbers), free(i->made), free(i->first), free(i->spans), free(i);
        return NULL;
    }
    memset(i->numbers, 0, VTC_CELL * (in + 1));
    for (size_t k = 0; k < in; ++k)
        if (n->variant->params[k].kind == 'w') i->table[k] = p->weights[n->variant->params[k].index].tensor.data;
    i->next = n->instances, n->instances = i;
    ++n->instance_count;
    return i;
}

static void vtc_free_instances(vtc_package *p, vtc_plan *n) {
    for (vtc_instance *i = n ? n->instances : NULL, *next; i; i = next) {
        next = i->next;
        if (i->cuda) vtc_free_stream(p, i);
        if (i->arena) vtc_free(p, i->arena, i->arena_bytes, i->stream);
        free(i->table), free(i->numbers), free(i->made), free(i->first), free(i->spans), free(i);
    }
    if (n) n->instances = NULL;
}

/* One that can be taken now. `*mine`: an instance has the stream already. */
static vtc_instance *vtc_idle_instance(vtc_call *c, int *mine) {
    vtc_instance *other = NULL;
    for (vtc_instance *i = c->plan->instances; i; i = i->next) {
        if (c->package->cuda && i->stream == c->stream) return *mine = 1, i->busy ? NULL : i;
        if (!i->busy) other = i;
    }
    return c->package->cuda && c->plan->instance_count < VTC_INSTANCES ? NULL : other;
}

static void vtc_lease(vtc_fault *f, vtc_call *c) {
    vtc_package *p = c->package;
    int none = 0, moved = 0;
    pthread_mutex_lock(&p->lock);
    while (!c->instance && !none) {
        int mine = 0;
        c->instance = vtc_idle_instance(c, &mine);
        if (!c->instance && !mine && c->plan->instance_count < VTC_INSTANCES) {
            c->instance = vtc_new_instance(p, c->plan);
            none = !c->instance;
            if (c->instance) c->instance->stream = c->stream;
        }
        if (c->instance) {
            moved = c->instance->stream != c->stream;
            c->instance->busy = 1;
        } else if (!none) {
            ++p->waiting;
            pthread_cond_wait(&p->changed, &p->lock);
            --p->waiting;
        }
    }
    pthread_mutex_unlock(&p->lock);
    if (none) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected memory for a call, got none", c->entry->name);
    if (moved) vtc_move(f, p, c->instance, c->stream);
}

static int vtc_conflict(const vtc_package *p, const vtc_claim *mine) {
    for (const vtc_claim *held = p->claims; held; held = held->next)
        for (const vtc_span_of *a = mine->spans; a < mine->spans + mine->count; ++a)
            for (const vtc_span_of *b = held->spans; b < held->spans + held->count; ++b)
                if ((a->write || b->write) && a->from < b->to && b->from < a->to) return 1;
    return 0;
}

/* Wait until no other call has what this one writes. All is claimed at once, so no two calls wait for each other. */
static void vtc_claim_memory(vtc_fault *f, vtc_call *c) {
    vtc_package *p = c->package;
    vtc_instance *i = c->instance;
    for (int64_t j = 0; j < c->variant->claiming_count; ++j) {
        const int64_t k = c->variant->claiming[j];
        const char *from = i->table[k];
        i->spans[j] = (vtc_span_of){from, from + vtc_buffer_bytes(f, c->plan->inputs + k, c->plan_dims), c->plan->inputs[k].over >= 0};
    }
    c->claim.spans = i->spans, c->claim.count = c->variant->claiming_count;
    pthread_mutex_lock(&p->lock);
    while (vtc_conflict(p, &c->claim)) {
        ++p->waiting;
        pthread_cond_wait(&p->changed, &p->lock);
        --p->waiting;
    }
    c->claim.next = p->claims, p->claims = &c->claim;
    c->claimed = 1;
    pthread_mutex_unlock(&p->lock);
}

#endif
