/* Part of vtc_runtime.c: a call that runs: its inputs, its outputs, the CPU. */
#ifndef VTC_RUN_H
#define VTC_RUN_H

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
    if ((c->input_count && !c->inputs) || (c->output_count && !c->outputs)) vtc_fail(f, VTC_BAD_ARGUMENT, "%s: expected its inputs and outputs, got a null pointer", e->name);
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
