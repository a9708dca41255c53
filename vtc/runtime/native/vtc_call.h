/* Part of vtc_runtime.c: a call of an entry: dims, variant, inputs, outputs; what runs it on the CPU.
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

/* In vtc_cuda.h. */
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

/* In vtc_cuda.h: see there. */
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

/* ---- inputs ---- */

static void vtc_put_number(vtc_instance *i, int64_t k, int64_t cell, const vtc_tensor *t) {
    double value;
    float f32;
    int64_t whole;
    if (t->dtype == VTC_F64) memcpy(&value, t->data, sizeof value);
    else if (t->dtype == VTC_F32) memcpy(&f32, t->data, sizeof f32), value = f32;
    else memcpy(&whole, t->data, sizeof whole), value = (double)whole;
    f32 = (float)value;
    i->table[k] = i->numbers + VTC_CELL * cell;
    if (i->plan->inputs[k].dtype == VTC_F64) memcpy(i->table[k], &value, sizeof value);
    else memcpy(i->table[k], &f32, sizeof f32);
}

static const int64_t *vtc_shape_of(const vtc_call *c, int64_t k) {
    const vtc_source s = c->variant->params[k];
    return s.kind == 'w' ? c->package->weights[s.index].tensor.shape : c->inputs[c->entry->inputs[s.index].position].shape;
}

static void vtc_fill(vtc_fault *f, vtc_call *c) {
    const vtc_plan *n = c->plan;
    for (int64_t d = 0; d < n->dim_count; ++d) {
        c->plan_dims[d] = vtc_shape_of(c, n->sites[d][0])[n->sites[d][1]];
        if (!vtc_fits(n->dims + d, c->plan_dims[d])) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s, got %" PRId64, c->entry->name, vtc_range(n->dims + d).text, c->plan_dims[d]);
    }
    for (int64_t j = 0; j < c->variant->moving_count; ++j) {
        const int64_t k = c->variant->moving[j], *shape = vtc_shape_of(c, k);
        const vtc_buffer *b = n->inputs + k;
        for (int32_t a = 0; a < b->rank; ++a)
            if (shape[a] != vtc_size_at(f, b->shape + a, c->plan_dims)) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %s, got another shape", b->path, vtc_type(b->dtype, b->rank, b->shape, n->dims).text);
        if (c->variant->params[k].kind == 'w') continue;
        const vtc_given *g = c->entry->inputs + c->variant->params[k].index;
        const vtc_tensor *t = c->inputs + g->position;
        if (g->kind == 'n') vtc_put_number(c->instance, k, c->numbers++, t);
        else if (c->package->cuda && t->device == VTC_CPU) c->instance->table[k] = vtc_stand_in_for(f, c, t->data, vtc_buffer_bytes(f, b, c->plan_dims), 1, g->written);
        else c->instance->table[k] = t->data;
    }
}

/* ---- outputs ---- */

/* The caller's memory for an output, if there is some to write to. */
static void *vtc_callers(vtc_fault *f, const vtc_call *c, int64_t result, const vtc_tensor *made) {
    const vtc_tensor *out = c->outputs + result;
    if (!out->data || (out->device != VTC_CPU && out->device != vtc_device_of(c->package))) {
        if (!out->data || out->owned) return NULL;
        vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected memory of device %d, got that of device %d", result, (int)vtc_device_of(c->package), (int)out->device);
    }
    if (out->bytes < made->bytes) {
        if (out->owned) return NULL;
        vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected room for %" PRId64 " bytes of %s, got %" PRId64, result, made->bytes, vtc_type_of(made).text, out->bytes);
    }
    if (out->read_only) vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected memory to write, got read-only memory", result);
    const size_t alignment = out->device == VTC_CPU ? (size_t)VTC_DTYPES[made->dtype].bytes : vtc_alignment_of(c->package, made->dtype);
    if ((uintptr_t)out->data % alignment) vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected memory aligned to %zu bytes, got %p", result, alignment, out->data);
    return out->data;
}

static void vtc_place_output(vtc_fault *f, vtc_call *c, int64_t k) {
    const vtc_plan *n = c->plan;
    vtc_instance *i = c->instance;
    void **slot = i->table + n->input_count + k;
    const vtc_buffer *b = n->outputs + k;
    vtc_tensor *made = i->made + k;
    if (n->over[k] >= 0) {
        *slot = i->table[n->over[k]];
        return;
    }
    *made = (vtc_tensor){.rank = b->rank, .dtype = b->dtype, .bytes = vtc_buffer_bytes(f, b, c->plan_dims), .device = vtc_device_of(c->package)};
    for (int32_t a = 0; a < b->rank; ++a) made->shape[a] = vtc_size_at(f, b->shape + a, c->plan_dims);
    void *given = i->first[k] < 0 ? NULL : vtc_callers(f, c, i->first[k], made);
    const int host = c->package->cuda && (i->first[k] < 0 || c->outputs[i->first[k]].device == VTC_CPU);
    if (given && !host) {
        made->data = *slot = given;
        return;
    }
    made->data = host ? vtc_stand_in_for(f, c, given, made->bytes, 0, 0) : vtc_allocate(c->package, (size_t)made->bytes, c->stream);
    if (!made->data) vtc_fail(f, VTC_OUT_OF_MEMORY, "output %" PRId64 ": expected %" PRId64 " bytes of memory, got none", i->first[k], made->bytes);
    made->owned = !host;
    *slot = made->data;
}

static void vtc_place_outputs(vtc_fault *f, vtc_call *c) {
    vtc_instance *i = c->instance;
    for (int64_t k = 0; k < c->plan->output_count; ++k) i->first[k] = -1, memset(i->made + k, 0, sizeof *i->made);
    c->placed = 1;
    for (int64_t r = c->entry->result_count; r-- > 0;)
        if (c->entry->results[r].kind == 'o') i->first[c->entry->results[r].index] = r;
    for (int64_t k = 0; k < c->plan->output_count; ++k) vtc_place_output(f, c, k);
}

static int vtc_overlap(const void *a, int64_t m, const void *b, int64_t n) {
    const uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return m > 0 && n > 0 && (x < y ? y - x < (uintptr_t)m : x - y < (uintptr_t)n);
}

static int64_t vtc_given_bytes(const vtc_tensor *t) {
    int64_t n = VTC_DTYPES[t->dtype].bytes;
    for (int32_t a = 0; a < t->rank; ++a) n *= t->shape[a];
    return n;
}

/* What is written overlaps nothing else that the caller gave. */
static void vtc_check_overlaps(vtc_fault *f, const vtc_call *c) {
    const vtc_entry *e = c->entry;
    for (int64_t w = 0; w < e->input_count; ++w) {
        const vtc_given *g = e->inputs + w;
        for (int64_t o = 0; g->written && o < e->input_count; ++o) {
            if (o == w || e->inputs[o].kind == 'c') continue;
            const vtc_tensor *a = c->inputs + g->position, *b = c->inputs + e->inputs[o].position;
            if (a->device == b->device && vtc_overlap(a->data, vtc_given_bytes(a), b->data, vtc_given_bytes(b)))
                vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected memory of its own, since it is written, got some of %s", g->name, e->inputs[o].name);
        }
    }
    for (int64_t k = 0; k < c->plan->output_count; ++k) {
        const int64_t r = c->instance->first[k];
        const vtc_tensor *made = c->instance->made + k, *out = r < 0 ? NULL : c->outputs + r;
        if (!out || !out->data || c->plan->over[k] >= 0 || (made->owned && made->data != out->data)) continue;
        for (int64_t o = 0; o < e->input_count; ++o) {
            if (e->inputs[o].kind == 'c') continue;
            const vtc_tensor *b = c->inputs + e->inputs[o].position;
            if (b->device == out->device && vtc_overlap(out->data, made->bytes, b->data, vtc_given_bytes(b)))
                vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected memory of its own, got some of %s", r, e->inputs[o].name);
        }
        for (int64_t o = 0; o < k; ++o) {
            const int64_t s = c->instance->first[o];
            if (s >= 0 && c->plan->over[o] < 0 && c->outputs[s].device == out->device && vtc_overlap(out->data, made->bytes, c->outputs[s].data, c->instance->made[o].bytes))
                vtc_fail(f, VTC_BAD_ARGUMENT, "output %" PRId64 ": expected memory of its own, got some of output %" PRId64, r, s);
        }
    }
}

/* Memory of the device that has a result that is no new array. */
static vtc_tensor vtc_source_tensor(const vtc_call *c, vtc_source s) {
    vtc_tensor t = {0};
    if (s.kind == 'w') return c->package->weights[s.index].tensor;
    if (s.kind != 'i' || c->entry->inputs[s.index].kind == 'c') return t;
    t = c->inputs[c->entry->inputs[s.index].position];
    t.owned = 0;
    return t;
}

/* A tensor of the GPU becomes one of the host: in the memory of `out`, if it fits, or in new memory. */
static void vtc_bring(vtc_fault *f, vtc_call *c, const vtc_tensor *out, vtc_tensor *t, int fits) {
    void *host = fits ? out->data : vtc_allocate_host(c->package, (size_t)t->bytes);
    if (!host) vtc_fail(f, VTC_OUT_OF_MEMORY, "expected %" PRId64 " bytes of memory for an output, got none", t->bytes);
    t->owned = fits ? out->owned : 1;
    if (!fits) c->brought = host;
    vtc_fetch(f, c, host, t->data, (size_t)t->bytes);
    c->brought = NULL;
    t->data = host, t->device = VTC_CPU, t->read_only = 0;
    if (fits) t->bytes = out->bytes;
}

static void vtc_deliver_one(vtc_fault *f, vtc_call *c, int64_t r) {
    const vtc_source s = c->entry->results[r];
    vtc_tensor *out = c->outputs + r, t;
    const int fresh = s.kind == 'o' && c->plan->over[s.index] < 0, mine = fresh && c->instance->first[s.index] == r;
    if (!fresh) t = vtc_source_tensor(c, s.kind == 'o' ? c->variant->params[c->plan->over[s.index]] : s);
    else if (mine) t = c->instance->made[s.index];
    else t = c->outputs[c->instance->first[s.index]], t.owned = 0;
    if (t.data && t.device != VTC_CPU && out->device == VTC_CPU && (mine || !fresh)) vtc_bring(f, c, out, &t, out->data && mine && out->bytes >= t.bytes && !out->read_only);
    if (mine && t.data == out->data) t.owned = out->owned, t.bytes = out->bytes;
    if (out->owned && out->data && out->data != t.data) vtc_release(c->package, out);
    if (mine) c->instance->made[s.index].owned = 0; /* the caller's now */
    *out = t;
}

/* ---- running ---- */

static void vtc_run_on_cpu(vtc_fault *f, vtc_call *c) {
    vtc_package *p = c->package;
    vtc_instance *i = c->instance;
    const vtc_plan *n = c->plan;
    const size_t bytes = (size_t)vtc_size_at(f, &n->arena, c->plan_dims);
    if (bytes > i->arena_bytes) {
        if (i->arena) vtc_free_host(p, i->arena, i->arena_bytes);
        i->arena_bytes = 0;
        i->arena = vtc_allocate_host(p, bytes);
        if (!i->arena) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected %zu bytes of scratch memory, got none", c->entry->name, bytes);
        i->arena_bytes = bytes;
    }
    if (c->variant->claiming_count) vtc_claim_memory(f, c);
    const int64_t code = n->host(i->table, i->table + n->input_count, i->arena, c->plan_dims, p->crew ? &p->crew->pool : p->options.pool);
    const char *note = code > 0 && code <= n->step_count ? n->steps[code - 1].note : "";
    if (code) vtc_fail(f, VTC_OUT_OF_RANGE, "index: expected an index inside its axis, got one outside it%s%s", *note ? "\n  at " : "", note);
}

static void vtc_run_it(vtc_fault *f, void *what) {
    vtc_call *c = what;
    const vtc_entry *e = c->entry = vtc_entry_of(f, c->package, c->name);
    if (c->input_count != e->call_inputs || c->output_count != e->result_count)
        vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected %" PRId64 " inputs and %" PRId64 " outputs, got %d and %d", e->name, e->call_inputs, e->result_count, (int)c->input_count, (int)c->output_count);
    vtc_bind(f, c);
    vtc_pick(f, c);
    if (c->package->cuda) vtc_enter_gpu(f, c);
    vtc_lease(f, c);
    vtc_fill(f, c);
    vtc_place_outputs(f, c);
    vtc_check_overlaps(f, c);
    if (c->package->cuda) vtc_launch(f, c);
    else vtc_run_on_cpu(f, c);
    for (int64_t r = 0; r < e->result_count; ++r) vtc_deliver_one(f, c, r);
}

/* Give back what the call has. */
static void vtc_finish(vtc_call *c) {
    vtc_package *p = c->package;
    if (!c->instance) {
        if (c->entered) vtc_leave_gpu(c);
        return;
    }
    for (int64_t k = 0; c->placed && k < c->plan->output_count; ++k) {
        vtc_tensor *made = c->instance->made + k;
        if (made->owned) vtc_free(p, made->data, (size_t)made->bytes, c->stream);
        made->owned = 0;
    }
    if (c->entered) vtc_leave_gpu(c);
    if (c->brought) vtc_free_host(p, c->brought, 0);
    pthread_mutex_lock(&p->lock);
    if (c->claimed) {
        vtc_claim **i = &p->claims;
        while (*i != &c->claim) i = &(*i)->next;
        *i = c->claim.next;
    }
    c->instance->busy = 0;
    if (p->waiting) pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

#endif
