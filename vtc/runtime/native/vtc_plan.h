/* Part of vtc_runtime.c: the plans of a package.
 *
 * Steps may hold steps: those of loops and branches. On the CPU the library of a plan runs them, on a GPU vtc_layout.h says what
 * becomes of them. Here they are read, and every place that they name is looked at, so that a plan which reaches outside its memory
 * is refused when the package is opened. */
#ifndef VTC_PLAN_H
#define VTC_PLAN_H

enum {
    VTC_PLAN_FORMAT = 4,
    VTC_NESTED = 64,   /* loops and branches in each other */
    VTC_MOST_DIMS = 32,
    VTC_CORNERS = 6,   /* dims up to which every combination of ends of ranges is looked at */
    VTC_FAR = 1 << 16  /* where a range without an end is looked at */
};
static const int64_t VTC_LARGEST = (int64_t)1 << 47; /* bytes: more than a process can address */

typedef struct vtc_dim {
    const char *name;
    int64_t min, max, multiple; /* INT64_MAX: no maximum */
} vtc_dim;

typedef struct vtc_buffer {
    const char *path;
    int32_t dtype, rank;
    int64_t over; /* of an input: the output that overwrites it, or -1 */
    const vtc_size *shape;
} vtc_buffer;

/* `step` bytes further with each turn of `loop`, and so for the `next` ones. */
typedef struct vtc_shift {
    const struct vtc_shift *next;
    const struct vtc_step *loop;
    vtc_size step;
} vtc_shift;

typedef struct vtc_ref {
    char kind; /* 'i', 'o' or 'a': input, output, arena */
    int64_t index;
    vtc_size offset;
    const vtc_shift *moves;
} vtc_ref;

typedef struct vtc_code_of {
    const char *name, *symbol;
    int checks, table;
    const vtc_member *cubin;
    int64_t warps, shared, scratch, alignment;
    void *function;
} vtc_code_of;

typedef struct vtc_steps {
    struct vtc_step *steps;
    int64_t count;
} vtc_steps;

/* What `kind` says:
 *
 * 'k'   a launch of `kernel`
 * 'c'   a copy of `bytes` bytes from args[1] to args[0]
 * 'f'   `turns` turns of the loop `number`, the last one first if `reverse`, each of the steps `inner[0]`
 * 'w'   the steps inner[0]; then, if the byte at args[0] is not 0, inner[1], and this again
 * 'b'   the steps inner[0] if the byte at args[0] is not 0, else inner[1]
 *
 * `index` numbers the launches and copies of a plan. A launch that checks indices has the error cell `cell`. */
typedef struct vtc_step {
    char kind;
    int reverse;
    const vtc_code_of *kernel;
    vtc_steps inner[2];
    int64_t number, index, cell;
    const struct vtc_step *next_checking;
    const vtc_ref *args;
    const vtc_size *sizes;
    const int64_t *after; /* the steps that it waits for */
    int64_t arg_count, size_count, after_count;
    vtc_size grid[3], bytes, turns;
    const char *note;
} vtc_step;

typedef int64_t vtc_host(void *const *inputs, void *const *outputs, void *arena, const int64_t *dims, vtc_pool *pool);

typedef struct vtc_plan {
    const char *name;
    const vtc_dim *dims;
    const int64_t (*sites)[2]; /* of each dim: an input and an axis that have its size */
    const vtc_buffer *inputs, *outputs;
    const int64_t *over; /* of each output: the input it overwrites, or -1 */
    vtc_size arena;
    vtc_code_of *kernels;
    vtc_step *steps;
    int64_t dim_count, input_count, output_count, kernel_count, step_count;
    int64_t flat_count, cell_count; /* launches and copies; launches that check indices */
    const vtc_step *checking;       /* the first of these */
    int flows, waits;               /* it has loops or branches; a byte of the device decides in one of them */
    vtc_host *host;
    const struct vtc_variant *variant;
    struct vtc_instance *instances;
    int64_t instance_count;
} vtc_plan;

static vtc_dim *vtc_dims_in(vtc_fault *f, vtc_package *p, const char *what, const vtc_json *v, int64_t *count) {
    vtc_expect(f, what, v, VTC_LIST);
    if (v->whole > VTC_MOST_DIMS) vtc_wrong(f, what, "at most 32 dims", v);
    vtc_dim *dims = vtc_make(f, &p->zone, (size_t)v->whole, sizeof *dims), *d = dims;
    for (const vtc_json *i = v->items; i; i = i->next, ++d) {
        const vtc_json *part = vtc_record(f, what, i, 4, "a dim [name, min, max, multiple]");
        d->name = vtc_expect(f, what, part, VTC_TEXT)->text, part = part->next;
        d->min = vtc_whole(f, what, part, 0, VTC_MOST), part = part->next;
        d->max = part->kind == VTC_NULL ? INT64_MAX : vtc_whole(f, what, part, d->min, VTC_MOST), part = part->next;
        d->multiple = vtc_whole(f, what, part, 1, VTC_MOST);
        for (const vtc_dim *e = dims; e < d; ++e)
            if (!strcmp(d->name, e->name)) vtc_wrong(f, what, "distinct dims", v);
    }
    *count = v->whole;
    return dims;
}

static vtc_names vtc_names_of(vtc_fault *f, vtc_package *p, const vtc_dim *dims, int64_t count) {
    const char **names = vtc_make(f, &p->zone, (size_t)count, sizeof *names);
    for (int64_t i = 0; i < count; ++i) names[i] = dims[i].name;
    return (vtc_names){names, count};
}

static const vtc_size *vtc_sizes_in(vtc_fault *f, vtc_package *p, const char *what, const vtc_json *v, const vtc_names *names, int64_t most, int64_t *count) {
    vtc_expect(f, what, v, VTC_LIST);
    if (v->whole > most) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected at most %" PRId64 " sizes, got %" PRId64, what, most, v->whole);
    vtc_size *sizes = vtc_make(f, &p->zone, (size_t)v->whole, sizeof *sizes), *s = sizes;
    for (const vtc_json *i = v->items; i; i = i->next) *s++ = vtc_size_in(f, &p->zone, what, i, names);
    *count = v->whole;
    return sizes;
}

/* Loops with turns to count, around the step that is read. */
typedef struct vtc_around {
    const struct vtc_around *outer;
    const vtc_step *loop;
} vtc_around;

typedef struct vtc_plan_reader {
    vtc_fault *fault;
    vtc_package *package;
    const char *what;
    vtc_names names;
    vtc_plan *plan;
    const vtc_around *around;
    const vtc_step **checking; /* where the next launch that checks indices goes */
    int depth;                 /* of loops and branches around */
} vtc_plan_reader;

static vtc_buffer *vtc_buffers_in(vtc_plan_reader *r, const vtc_json *v, int64_t *count) {
    vtc_fault *f = r->fault;
    vtc_buffer *buffers = vtc_make(f, &r->package->zone, (size_t)v->whole, sizeof *buffers), *b = buffers;
    for (const vtc_json *i = v->items; i; i = i->next, ++b) {
        const vtc_json *part = vtc_record(f, r->what, i, 4, "a buffer [dtype, shape, path, overwritten]");
        int64_t rank;
        b->dtype = vtc_dtype_in(f, r->what, part), part = part->next;
        b->shape = vtc_sizes_in(f, r->package, r->what, part, &r->names, VTC_MAX_RANK, &rank), part = part->next;
        b->rank = (int32_t)rank;
        b->path = vtc_expect(f, r->what, part, VTC_TEXT)->text, part = part->next;
        b->over = part->kind == VTC_NULL ? -1 : vtc_whole(f, r->what, part, 0, VTC_MOST);
    }
    *count = v->whole;
    return buffers;
}

/* The sizes are spelled alike; they are canonical, so equal ones are. */
static int vtc_equal(const vtc_size *a, const vtc_size *b) {
    return vtc_constant(a) == vtc_constant(b) && (vtc_constant(a) ? a->value == b->value : !strcmp(a->text, b->text));
}

static void vtc_check_overwritten(vtc_plan_reader *r) {
    vtc_plan *n = r->plan;
    int64_t *over = vtc_make(r->fault, &r->package->zone, (size_t)n->output_count, sizeof *over);
    for (int64_t i = 0; i < n->output_count; ++i) over[i] = -1;
    for (int64_t i = 0; i < n->input_count; ++i) {
        const int64_t k = n->inputs[i].over;
        if (k < 0) continue;
        const vtc_buffer *in = n->inputs + i, *out = k < n->output_count ? n->outputs + k : NULL;
        int same = out && over[k] < 0 && in->dtype == out->dtype && in->rank == out->rank;
        for (int32_t a = 0; same && a < in->rank; ++a) same = vtc_equal(in->shape + a, out->shape + a);
        if (!same) vtc_fail(r->fault, VTC_BAD_PACKAGE, "%s: expected an output like input %" PRId64 " to overwrite it, got output %" PRId64, r->what, i, k);
        over[k] = i;
    }
    n->over = over;
}

static void vtc_find_sites(vtc_plan_reader *r) {
    vtc_plan *n = r->plan;
    int64_t(*sites)[2] = vtc_make(r->fault, &r->package->zone, (size_t)n->dim_count, sizeof *sites);
    for (int64_t d = 0; d < n->dim_count; ++d) {
        int found = 0;
        for (int64_t i = 0; i < n->input_count && !found; ++i)
            for (int32_t a = 0; a < n->inputs[i].rank && !found; ++a)
                if (vtc_name_of(n->inputs[i].shape + a) == d) found = 1, sites[d][0] = i, sites[d][1] = a;
        if (!found) vtc_fail(r->fault, VTC_BAD_PACKAGE, "%s: expected an input axis of size %s, got none", r->what, n->dims[d].name);
    }
    n->sites = (const int64_t(*)[2])sites;
}

static int64_t vtc_buffer_bytes(vtc_fault *f, const vtc_buffer *b, const int64_t *values) {
    int64_t n = VTC_DTYPES[b->dtype].bytes;
    for (int32_t a = 0; a < b->rank; ++a)
        if (__builtin_mul_overflow(n, vtc_size_at(f, b->shape + a, values), &n)) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a size of 64 bits, got a larger one", b->path);
    return n;
}

static int vtc_static_buffer(const vtc_buffer *b) {
    int all = 1;
    for (int32_t a = 0; a < b->rank; ++a) all &= vtc_constant(b->shape + a);
    return all;
}

/* How many bytes lie between the first place that `ref` means and the last. */
static int64_t vtc_reach(vtc_fault *f, const vtc_plan *n, const vtc_ref *ref, const int64_t *values) {
    int64_t all = 0, moved;
    for (const vtc_shift *m = ref->moves; m; m = m->next)
        if (__builtin_mul_overflow(vtc_size_at(f, &m->loop->turns, values) - 1, vtc_size_at(f, &m->step, values), &moved) || __builtin_add_overflow(all, moved, &all))
            vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected memory of the plan, got a loop that leaves it", n->name);
    return all;
}

/* The places that `s` names are memory of the plan with room for what is known of them. */
static void vtc_check_args(vtc_fault *f, const vtc_plan *n, const vtc_step *s, const int64_t *values) {
    const int64_t bytes = s->kind == 'c' ? vtc_size_at(f, &s->bytes, values) : s->kind != 'k';
    for (const vtc_ref *ref = s->args; ref < s->args + s->arg_count; ++ref) {
        const vtc_buffer *b = ref->kind == 'i' ? n->inputs + ref->index : n->outputs + ref->index;
        const int64_t room = ref->kind == 'a' ? vtc_size_at(f, &n->arena, values) - vtc_size_at(f, &ref->offset, values) : vtc_buffer_bytes(f, b, values);
        if (room < bytes || room - bytes < vtc_reach(f, n, ref, values)) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected memory of the plan, got a place outside it", n->name);
    }
}

/* The loop with a number that has turns to count, and is around what is read. */
static const vtc_step *vtc_loop_of(const vtc_plan_reader *r, const vtc_json *v) {
    const int64_t number = vtc_expect(r->fault, r->what, v, VTC_WHOLE)->whole;
    for (const vtc_around *a = r->around; a; a = a->outer)
        if (a->loop->number == number) return a->loop;
    vtc_wrong(r->fault, r->what, "the number of a loop around it that counts", v);
}

static void vtc_ref_in(vtc_plan_reader *r, const vtc_json *v, vtc_ref *ref) {
    vtc_fault *f = r->fault;
    for (;;) {
        const vtc_json *kind = vtc_record(f, r->what, v, 2, "a reference [kind, place]"), *at = kind->next;
        const char *name = vtc_expect(f, r->what, kind, VTC_TEXT)->text;
        if (!strcmp(name, "moving")) {
            vtc_shift *m = vtc_make(f, &r->package->zone, 1, sizeof *m);
            v = vtc_record(f, r->what, at, 3, "a moving place [base, loop, step]");
            *m = (vtc_shift){ref->moves, vtc_loop_of(r, v->next), vtc_size_in(f, &r->package->zone, r->what, v->next->next, &r->names)};
            ref->moves = m;
            continue;
        }
        const int in = !strcmp(name, "in"), out = !strcmp(name, "out");
        if (!in && !out && strcmp(name, "arena")) vtc_wrong(f, r->what, "in, out, arena or moving", kind);
        ref->kind = in ? 'i' : out ? 'o' : 'a';
        if (ref->kind == 'a') ref->offset = vtc_size_in(f, &r->package->zone, r->what, at, &r->names);
        else ref->index = vtc_whole(f, r->what, at, 0, (in ? r->plan->input_count : r->plan->output_count) - 1);
        return;
    }
}

static void vtc_kernels_in(vtc_plan_reader *r, const vtc_json *v) {
    vtc_fault *f = r->fault;
    vtc_plan *n = r->plan;
    vtc_code_of *k = n->kernels = vtc_make(f, &r->package->zone, (size_t)v->whole, sizeof *n->kernels);
    n->kernel_count = v->whole;
    for (const vtc_json *i = v->items; i; i = i->next, ++k) {
        const vtc_json *part = vtc_record(f, r->what, i, 5, "a kernel [name, symbol, source, note, build]");
        k->name = vtc_expect(f, r->what, part, VTC_TEXT)->text, part = part->next;
        k->symbol = vtc_expect(f, r->what, part, VTC_TEXT)->text, part = part->next->next->next;
        for (const vtc_code_of *other = n->kernels; other < k; ++other)
            if (!strcmp(k->name, other->name)) vtc_wrong(f, r->what, "distinct kernels", i);
        if (part->kind == VTC_NULL) continue;
        part = vtc_record(f, r->what, part, 5, "a build [signature, warps, stages, checks, table]")->next->next->next;
        k->checks = (int)vtc_expect(f, r->what, part, VTC_TRUTH)->whole;
        k->table = (int)vtc_expect(f, r->what, part->next, VTC_TRUTH)->whole;
    }
}

static vtc_steps vtc_list_in(vtc_plan_reader *, const vtc_json *);

static void vtc_launch_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    vtc_fault *f = r->fault;
    const vtc_json *part = vtc_record(f, r->what, v, 7, "a launch [launch, kernel, args, sizes, note, work, grid]")->next;
    const char *name = vtc_expect(f, r->what, part, VTC_TEXT)->text;
    for (const vtc_code_of *k = r->plan->kernels; k < r->plan->kernels + r->plan->kernel_count; ++k)
        if (!strcmp(k->name, name)) s->kernel = k;
    if (!s->kernel) vtc_wrong(f, r->what, "a kernel of the plan", part);
    part = part->next;
    s->arg_count = vtc_expect(f, r->what, part, VTC_LIST)->whole;
    vtc_ref *args = vtc_make(f, &r->package->zone, (size_t)s->arg_count, sizeof *args);
    s->args = args;
    for (const vtc_json *i = part->items; i; i = i->next) vtc_ref_in(r, i, args++);
    part = part->next;
    s->sizes = vtc_sizes_in(f, r->package, r->what, part, &r->names, VTC_MOST, &s->size_count), part = part->next;
    s->note = vtc_expect(f, r->what, part, VTC_TEXT)->text, part = part->next->next;
    int64_t axes;
    const vtc_size *grid = vtc_sizes_in(f, r->package, r->what, part, &r->names, 3, &axes);
    for (int64_t i = 0; i < 3; ++i) s->grid[i] = i < axes ? grid[i] : (vtc_size){NULL, 0, 1, NULL};
}

static void vtc_copy_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    const vtc_json *part = vtc_record(r->fault, r->what, v, 4, "a copy [copy, source, target, bytes]")->next;
    vtc_ref *ends = vtc_make(r->fault, &r->package->zone, 2, sizeof *ends);
    s->bytes = vtc_size_in(r->fault, &r->package->zone, r->what, part->next->next, &r->names);
    vtc_ref_in(r, part, ends + 1);
    vtc_ref_in(r, part->next, ends);
    s->args = ends, s->arg_count = 2;
}

/* The byte that says whether a loop goes on, or which way a branch goes. */
static void vtc_condition_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    vtc_ref *cell = vtc_make(r->fault, &r->package->zone, 1, sizeof *cell);
    vtc_ref_in(r, v, cell);
    s->args = cell, s->arg_count = 1;
}

static void vtc_branch_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    const vtc_json *part = vtc_record(r->fault, r->what, v, 5, "a branch [branch, condition, then, otherwise, note]")->next;
    vtc_condition_in(r, part, s), part = part->next;
    for (int i = 0; i < 2; ++i, part = part->next) s->inner[i] = vtc_list_in(r, part);
    s->note = vtc_expect(r->fault, r->what, part, VTC_TEXT)->text;
}

static void vtc_loop_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    vtc_fault *f = r->fault;
    const vtc_json *number = vtc_record(f, r->what, v, 8, "a loop [loop, number, steps, count, reverse, test, condition, note]")->next;
    const vtc_json *body = number->next, *turns = body->next, *test = turns->next->next, *condition = test->next;
    const vtc_around here = {r->around, s};
    s->number = vtc_expect(f, r->what, number, VTC_WHOLE)->whole;
    s->turns = vtc_size_in(f, &r->package->zone, r->what, turns, &r->names);
    s->reverse = (int)vtc_expect(f, r->what, turns->next, VTC_TRUTH)->whole;
    s->note = vtc_expect(f, r->what, condition->next, VTC_TEXT)->text;
    for (const vtc_around *a = r->around; a; a = a->outer)
        if (a->loop->number == s->number) vtc_wrong(f, r->what, "a loop with a number of its own", number);
    if (condition->kind != VTC_NULL) {
        s->kind = 'w';
        vtc_condition_in(r, condition, s);
        s->inner[0] = vtc_list_in(r, test), s->inner[1] = vtc_list_in(r, body);
        return;
    }
    if (vtc_expect(f, r->what, test, VTC_LIST)->whole) vtc_wrong(f, r->what, "a condition for a test", condition);
    r->around = &here;
    s->inner[0] = vtc_list_in(r, body);
    r->around = here.outer;
}

/* What a plan knows of all its steps. */
static void vtc_count_step(vtc_plan_reader *r, vtc_step *s) {
    vtc_plan *n = r->plan;
    const int flat = s->kind == 'k' || s->kind == 'c';
    if (flat) s->index = n->flat_count++;
    n->flows |= !flat, n->waits |= s->kind == 'w' || s->kind == 'b';
    if (!s->kernel || !s->kernel->checks) return;
    s->cell = n->cell_count++;
    *r->checking = s, r->checking = &s->next_checking;
}

static void vtc_step_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    static const struct { const char *name; char kind; void (*read)(vtc_plan_reader *, const vtc_json *, vtc_step *); } kinds[] = {
        {"launch", 'k', vtc_launch_in}, {"copy", 'c', vtc_copy_in}, {"loop", 'f', vtc_loop_in}, {"branch", 'b', vtc_branch_in}};
    const char *name = vtc_expect(r->fault, r->what, v->kind == VTC_LIST ? v->items : NULL, VTC_TEXT)->text;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        if (strcmp(name, kinds[i].name)) continue;
        s->kind = kinds[i].kind, s->note = "";
        kinds[i].read(r, v, s);
        vtc_count_step(r, s);
        return;
    }
    vtc_wrong(r->fault, r->what, "a launch, a copy, a loop or a branch", v);
}

/* The steps of a plan, or those in a loop or a branch. */
static vtc_steps vtc_list_in(vtc_plan_reader *r, const vtc_json *v) {
    if (++r->depth > VTC_NESTED + 1) vtc_fail(r->fault, VTC_BAD_PACKAGE, "%s: expected at most %d loops and branches in each other, got more", r->what, VTC_NESTED);
    vtc_step *s = vtc_make(r->fault, &r->package->zone, (size_t)vtc_expect(r->fault, r->what, v, VTC_LIST)->whole, sizeof *s);
    const vtc_steps made = {s, v->whole};
    for (const vtc_json *i = v->items; i; i = i->next) vtc_step_in(r, i, s++);
    --r->depth;
    return made;
}

/* What step `k` waits for: those that the plan names, or the one before. */
static void vtc_after_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s, int64_t k) {
    int64_t *after = vtc_make(r->fault, &r->package->zone, v ? (size_t)vtc_expect(r->fault, r->what, v, VTC_LIST)->whole : 1, sizeof *after);
    s->after = after;
    if (v)
        for (const vtc_json *i = v->items; i; i = i->next) after[s->after_count++] = vtc_whole(r->fault, r->what, i, 0, k - 1);
    else if (k) after[s->after_count++] = k - 1;
}

static void vtc_steps_in(vtc_plan_reader *r, const vtc_json *steps, const vtc_json *after) {
    const vtc_steps all = vtc_list_in(r, steps);
    r->plan->steps = all.steps, r->plan->step_count = all.count;
    if (after->whole && after->whole != steps->whole) vtc_wrong(r->fault, r->what, "what each step waits for", after);
    const vtc_json *before = after->items;
    for (vtc_step *s = all.steps; s < all.steps + all.count; ++s, before = before ? before->next : NULL) vtc_after_in(r, before, s, s - all.steps);
}

/* No step that runs at these sizes reaches outside its memory. */
static void vtc_check_steps(vtc_fault *f, const vtc_plan *n, vtc_steps all, const int64_t *values) {
    for (const vtc_step *s = all.steps; s < all.steps + all.count; ++s) {
        vtc_check_args(f, n, s, values);
        for (int a = 0; s->kind == 'k' && a < 3; ++a) vtc_size_at(f, s->grid + a, values);
        if (s->kind == 'f' && !vtc_size_at(f, &s->turns, values)) continue;
        for (int i = 0; i < 2; ++i) vtc_check_steps(f, n, s->inner[i], values);
    }
}

/* The plan is sound at these values of its dims. */
static void vtc_check_places(vtc_fault *f, const vtc_plan *n, const int64_t *values) {
    const vtc_buffer *ends[] = {n->inputs + n->input_count, n->outputs + n->output_count};
    if (vtc_size_at(f, &n->arena, values) > VTC_LARGEST) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected an arena of at most 2^47 bytes, got a larger one", n->name);
    for (int i = 0; i < 2; ++i)
        for (const vtc_buffer *b = i ? n->outputs : n->inputs; b < ends[i]; ++b)
            if (vtc_buffer_bytes(f, b, values) > VTC_LARGEST) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected arrays of at most 2^47 bytes, got a larger one", n->name);
    vtc_check_steps(f, n, (vtc_steps){n->steps, n->step_count}, values);
}

/* The end of a range; that of one without is far away. */
static int64_t vtc_end_of(const vtc_dim *d, int high) {
    const int64_t low = (d->min + d->multiple - 1) / d->multiple * d->multiple;
    const int64_t most = d->max == INT64_MAX ? (low > VTC_FAR ? low : VTC_FAR) : d->max;
    return high && most / d->multiple * d->multiple > low ? most / d->multiple * d->multiple : low;
}

static void vtc_check_corners(vtc_fault *f, const vtc_plan *n) {
    int64_t values[VTC_MOST_DIMS];
    const int all = n->dim_count > VTC_CORNERS;
    for (int corner = 0; corner < (all ? 2 : 1 << n->dim_count); ++corner) {
        for (int64_t d = 0; d < n->dim_count; ++d) values[d] = vtc_end_of(n->dims + d, all ? corner : corner >> d & 1);
        vtc_check_places(f, n, values);
    }
}

/* The plan in a member. */
static vtc_plan *vtc_plan_in(vtc_fault *f, vtc_package *p, const vtc_member *m) {
    const vtc_json *root = vtc_parse(f, &p->zone, m->name, m->data, m->size);
    vtc_plan *n = vtc_make(f, &p->zone, 1, sizeof *n);
    vtc_plan_reader r = {f, p, m->name, {NULL, 0}, n, NULL, &n->checking, 0};
    const int64_t format = vtc_get(f, r.what, root, "format", VTC_WHOLE)->whole;
    if (format != VTC_PLAN_FORMAT) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected format %d, got %" PRId64, r.what, VTC_PLAN_FORMAT, format);
    n->name = vtc_get(f, r.what, root, "name", VTC_TEXT)->text;
    n->dims = vtc_dims_in(f, p, r.what, vtc_find(root, "dims"), &n->dim_count);
    r.names = vtc_names_of(f, p, n->dims, n->dim_count);
    n->inputs = vtc_buffers_in(&r, vtc_get(f, r.what, root, "inputs", VTC_LIST), &n->input_count);
    n->outputs = vtc_buffers_in(&r, vtc_get(f, r.what, root, "outputs", VTC_LIST), &n->output_count);
    n->arena = vtc_size_in(f, &p->zone, r.what, vtc_find(root, "arena"), &r.names);
    vtc_check_overwritten(&r);
    vtc_find_sites(&r);
    vtc_kernels_in(&r, vtc_get(f, r.what, root, "kernels", VTC_LIST));
    vtc_steps_in(&r, vtc_get(f, r.what, root, "steps", VTC_LIST), vtc_get(f, r.what, root, "after", VTC_LIST));
    vtc_check_corners(f, n);
    return n;
}

#endif
