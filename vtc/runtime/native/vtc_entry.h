/* Part of vtc_runtime.c: the entries of a package: what each takes and gives, and a plan for each range of sizes. */
#ifndef VTC_ENTRY_H
#define VTC_ENTRY_H

/* Where an input of a plan or a result of an entry comes from. */
typedef struct vtc_source {
    char kind; /* 'i', 'w', 'o', 'v': input, weight, output, what is no tensor */
    int64_t index;
} vtc_source;

/* `moving`: the params whose memory or shape a call has to look at; `claiming`: those that it, or another call, may write. */
typedef struct vtc_variant {
    const vtc_dim *dims;
    const vtc_source *params;
    const int64_t *moving, *claiming;
    int64_t moving_count, claiming_count;
    vtc_plan *plan;
} vtc_variant;

typedef struct vtc_given {
    const char *name;
    char kind; /* 'a', 'n', 'c': argument, number, constant */
    int written;
    int32_t dtype, rank;
    int64_t position; /* among the inputs of a call; constants have none */
    const vtc_size *shape;
} vtc_given;

typedef struct vtc_entry {
    const char *name;
    const vtc_dim *dims;
    const vtc_given *inputs;
    const vtc_source *results;
    const vtc_variant *variants;
    int64_t dim_count, input_count, result_count, variant_count, call_inputs;
} vtc_entry;

static vtc_source vtc_source_in(vtc_fault *f, const vtc_package *p, const char *what, const vtc_json *v, int64_t inputs) {
    const vtc_json *one = v->kind == VTC_OBJECT && v->whole == 1 ? v->items : NULL;
    if (one && !strcmp(one->key, "input")) return (vtc_source){'i', vtc_whole(f, what, one, 0, inputs - 1)};
    if (one && !strcmp(one->key, "output")) return (vtc_source){'o', vtc_whole(f, what, one, 0, VTC_MOST)};
    if (one && (!strcmp(one->key, "value") || !strcmp(one->key, "size"))) return (vtc_source){'v', 0};
    const vtc_weight *w = one && !strcmp(one->key, "weight") ? vtc_weight_of(p, vtc_expect(f, what, one, VTC_TEXT)->text) : NULL;
    if (!w) vtc_wrong(f, what, "an input, an output, a weight or a value", v);
    return (vtc_source){'w', w - p->weights};
}

static const vtc_source *vtc_sources_in(vtc_fault *f, vtc_package *p, const char *what, const vtc_json *v, int64_t inputs) {
    vtc_source *sources = vtc_make(f, &p->zone, (size_t)v->whole, sizeof *sources), *s = sources;
    for (const vtc_json *i = v->items; i; i = i->next) *s++ = vtc_source_in(f, p, what, i, inputs);
    return sources;
}

static void vtc_given_in(vtc_fault *f, vtc_package *p, const char *what, const vtc_json *v, const vtc_names *names, vtc_given *g) {
    const char *kind = vtc_get(f, what, v, "kind", VTC_TEXT)->text;
    g->name = vtc_get(f, what, v, "name", VTC_TEXT)->text;
    g->kind = kind[0];
    if (!strcmp(kind, "number") || !strcmp(kind, "constant")) return;
    if (strcmp(kind, "argument")) vtc_wrong(f, what, "an argument, a number or a constant", v);
    int64_t rank;
    g->dtype = vtc_dtype_in(f, what, vtc_get(f, what, v, "dtype", VTC_TEXT));
    g->shape = vtc_sizes_in(f, p, what, vtc_find(v, "shape"), names, VTC_MAX_RANK, &rank);
    g->rank = (int32_t)rank;
    g->written = (int)vtc_get(f, what, v, "written", VTC_TRUTH)->whole;
}

/* An input of a plan gets what it expects, as far as that does not depend on dims. */
static void vtc_check_param(vtc_fault *f, const vtc_package *p, const vtc_entry *e, const vtc_variant *v, int64_t k) {
    const vtc_buffer *b = v->plan->inputs + k;
    const vtc_source *s = v->params + k;
    const vtc_given *g = s->kind == 'i' ? e->inputs + s->index : NULL;
    const vtc_weight *w = s->kind == 'w' ? p->weights + s->index : NULL;
    int good = w ? b->dtype == w->tensor.dtype && b->rank == w->tensor.rank
                 : g && (g->kind == 'n' ? !b->rank && (b->dtype == VTC_F64 || b->dtype == VTC_F32) : g->kind == 'a' && b->dtype == g->dtype && b->rank == g->rank);
    for (int32_t a = 0; good && w && a < b->rank; ++a) good = !vtc_constant(b->shape + a) || b->shape[a].value == w->tensor.shape[a];
    if (good && b->over >= 0) good = w ? w->state : g->written;
    if (!good) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected what the manifest says for input %" PRId64 " of plan %s, got another", e->name, k, v->plan->name);
}

static void vtc_check_results(vtc_fault *f, const vtc_entry *e, const vtc_plan *n) {
    for (int64_t i = 0; i < e->result_count; ++i)
        if (e->results[i].kind == 'o' && e->results[i].index >= n->output_count)
            vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected one of %" PRId64 " outputs, got output %" PRId64, e->name, n->output_count, e->results[i].index);
    for (int64_t d = 0; d < e->dim_count; ++d) {
        int found = 0;
        for (int64_t i = 0; i < e->input_count; ++i)
            for (int32_t a = 0; a < e->inputs[i].rank; ++a) found |= vtc_name_of(e->inputs[i].shape + a) == d;
        if (!found) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected an input axis of size %s, got none", e->name, e->dims[d].name);
    }
}

static const vtc_member *vtc_member_in(vtc_fault *f, const vtc_package *p, const vtc_json *object, const char *key) {
    const vtc_json *v = vtc_get(f, "manifest", object, key, VTC_TEXT);
    const vtc_member *m = vtc_member_of(p, v->text);
    if (!m) vtc_wrong(f, "manifest", "a member", v);
    return m;
}

/* What a target needs beside the plan: its library, or its kernels. */
typedef void vtc_linker(vtc_fault *, vtc_package *, vtc_plan *, const vtc_json *);

static void vtc_variant_in(vtc_fault *f, vtc_package *p, vtc_entry *e, const vtc_json *v, vtc_variant *made, vtc_linker *link) {
    int64_t dims;
    made->dims = vtc_dims_in(f, p, e->name, vtc_find(v, "dims"), &dims);
    int same = dims == e->dim_count;
    for (int64_t d = 0; same && d < dims; ++d) same = !strcmp(made->dims[d].name, e->dims[d].name);
    if (!same) vtc_wrong(f, e->name, "the dims of the entry", vtc_find(v, "dims"));
    const vtc_json *params = vtc_get(f, e->name, v, "params", VTC_LIST), *plans = vtc_get(f, e->name, v, "plans", VTC_OBJECT);
    const vtc_json *plan = vtc_find(plans, p->target);
    if (!plan) vtc_fail(f, VTC_NO_TARGET, "%s: expected a plan for %s, got none", e->name, p->target);
    made->plan = vtc_plan_in(f, p, vtc_member_in(f, p, plan, "plan"));
    if (params->whole != made->plan->input_count) vtc_wrong(f, e->name, "a param for each input of the plan", params);
    made->params = vtc_sources_in(f, p, e->name, params, e->input_count);
    int64_t *moving = vtc_make(f, &p->zone, (size_t)params->whole, sizeof *moving), *claiming = vtc_make(f, &p->zone, (size_t)params->whole, sizeof *claiming);
    for (int64_t k = 0; k < made->plan->input_count; ++k) {
        vtc_check_param(f, p, e, made, k);
        if (made->params[k].kind == 'i' || !vtc_static_buffer(made->plan->inputs + k)) moving[made->moving_count++] = k;
        if (made->plan->inputs[k].over >= 0 || (made->params[k].kind == 'w' && p->weights[made->params[k].index].state)) claiming[made->claiming_count++] = k;
    }
    made->moving = moving, made->claiming = claiming;
    made->plan->variant = made;
    vtc_check_results(f, e, made->plan);
    link(f, p, made->plan, plan);
}

static void vtc_entry_in(vtc_fault *f, vtc_package *p, const vtc_json *v, vtc_entry *e, vtc_linker *link) {
    e->name = v->key;
    e->dims = vtc_dims_in(f, p, e->name, vtc_find(v, "dims"), &e->dim_count);
    const vtc_names names = vtc_names_of(f, p, e->dims, e->dim_count);
    const vtc_json *inputs = vtc_get(f, e->name, v, "inputs", VTC_LIST), *results = vtc_get(f, e->name, v, "results", VTC_LIST);
    const vtc_json *variants = vtc_get(f, e->name, v, "variants", VTC_LIST);
    vtc_given *g = vtc_make(f, &p->zone, (size_t)inputs->whole, sizeof *g);
    e->inputs = g, e->input_count = inputs->whole;
    for (const vtc_json *i = inputs->items; i; i = i->next, ++g) {
        vtc_given_in(f, p, e->name, i, &names, g);
        g->position = g->kind == 'c' ? -1 : e->call_inputs++;
    }
    e->results = vtc_sources_in(f, p, e->name, results, e->input_count), e->result_count = results->whole;
    vtc_variant *made = vtc_make(f, &p->zone, (size_t)variants->whole, sizeof *made);
    e->variants = made, e->variant_count = variants->whole;
    for (const vtc_json *i = variants->items; i; i = i->next) vtc_variant_in(f, p, e, i, made++, link);
}

static void vtc_read_entries(vtc_fault *f, vtc_package *p, vtc_linker *link) {
    const vtc_json *all = vtc_get(f, "manifest", p->manifest, "entries", VTC_OBJECT);
    vtc_entry *e = p->entries = vtc_make(f, &p->zone, (size_t)all->whole, sizeof *e);
    p->entry_count = all->whole;
    for (const vtc_json *i = all->items; i; i = i->next) vtc_entry_in(f, p, i, e++, link);
}

#endif
