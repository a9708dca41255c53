/* Part of vtc_runtime.c: sizes such as `4*B + 63`, read from text and computed for values of their dims. */
#ifndef VTC_SIZE_H
#define VTC_SIZE_H

enum { VTC_SIZE_TEXT = 4096, VTC_SIZE_DEPTH = 32 };

typedef enum vtc_op { VTC_CONSTANT, VTC_NAME, VTC_ADD, VTC_SUB, VTC_MUL, VTC_DIV, VTC_MOD, VTC_MIN, VTC_MAX, VTC_NEG } vtc_op;

typedef struct vtc_code {
    vtc_op op;
    int64_t value; /* of a constant, or the number of a name */
} vtc_code;

/* A size: `count` codes in the order of a stack machine; without codes it is `value`. `text` is how it was spelled. */
typedef struct vtc_size {
    const vtc_code *code;
    int64_t count, value;
    const char *text;
} vtc_size;

typedef struct vtc_names {
    const char *const *names;
    int64_t count;
} vtc_names;

typedef struct vtc_size_reader {
    vtc_reader text;
    const vtc_names *names;
    vtc_code *code;
    int64_t count, stack, deepest;
    const char *all;
} vtc_size_reader;

static void vtc_sum(vtc_size_reader *, int);

static _Noreturn void vtc_no_size(const vtc_size_reader *r) {
    vtc_fail(r->text.fault, VTC_BAD_PACKAGE, "%s: expected a size, got \"%.100s\"", r->text.what, r->all);
}

static void vtc_emit(vtc_size_reader *r, vtc_op op, int64_t value) {
    r->stack += op <= VTC_NAME ? 1 : op == VTC_NEG ? 0 : -1;
    if (r->stack > VTC_SIZE_DEPTH) vtc_no_size(r);
    r->code[r->count++] = (vtc_code){op, value};
}

static int vtc_in_name(int c) { return c == '_' || c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static void vtc_read_name(vtc_size_reader *r, int depth) {
    const char *from = r->text.at;
    while (vtc_in_name(vtc_peek(&r->text))) ++r->text.at;
    const size_t n = (size_t)(r->text.at - from);
    const int least = n == 3 && !memcmp(from, "min", 3), most = n == 3 && !memcmp(from, "max", 3);
    if ((least || most) && vtc_take(&r->text, '(')) {
        vtc_sum(r, depth + 1);
        if (!vtc_take(&r->text, ',')) vtc_no_size(r);
        vtc_sum(r, depth + 1);
        if (!vtc_take(&r->text, ')')) vtc_no_size(r);
        vtc_emit(r, least ? VTC_MIN : VTC_MAX, 0);
        return;
    }
    for (int64_t i = 0; n && i < r->names->count; ++i)
        if (strlen(r->names->names[i]) == n && !memcmp(from, r->names->names[i], n)) {
            vtc_emit(r, VTC_NAME, i);
            return;
        }
    if (n) vtc_fail(r->text.fault, VTC_BAD_PACKAGE, "%s: expected a declared dim, got \"%.*s\" in \"%.100s\"", r->text.what, (int)(n > 60 ? 60 : n), from, r->all);
    vtc_no_size(r);
}

static void vtc_factor(vtc_size_reader *r, int depth) {
    if (depth > VTC_DEPTH) vtc_no_size(r);
    vtc_skip(&r->text);
    const int c = vtc_peek(&r->text);
    if (vtc_take(&r->text, '-')) {
        vtc_factor(r, depth + 1);
        vtc_emit(r, VTC_NEG, 0);
    } else if (vtc_take(&r->text, '(')) {
        vtc_sum(r, depth + 1);
        if (!vtc_take(&r->text, ')')) vtc_no_size(r);
    } else if (c >= '0' && c <= '9') {
        vtc_json v = {0};
        vtc_read_number(&r->text, &v);
        if (v.kind != VTC_WHOLE || vtc_in_name(vtc_peek(&r->text))) vtc_no_size(r);
        vtc_emit(r, VTC_CONSTANT, v.whole);
    } else vtc_read_name(r, depth);
}

static void vtc_product(vtc_size_reader *r, int depth) {
    vtc_factor(r, depth);
    for (;;) {
        vtc_op op;
        if (vtc_take(&r->text, '*')) op = VTC_MUL;
        else if (vtc_take(&r->text, '%')) op = VTC_MOD;
        else if (vtc_take(&r->text, '/')) {
            if (vtc_peek(&r->text) != '/') vtc_no_size(r);
            ++r->text.at, op = VTC_DIV;
        } else return;
        vtc_factor(r, depth);
        vtc_emit(r, op, 0);
    }
}

static void vtc_sum(vtc_size_reader *r, int depth) {
    if (depth > VTC_DEPTH) vtc_no_size(r);
    vtc_product(r, depth);
    for (;;) {
        const int plus = vtc_take(&r->text, '+');
        if (!plus && !vtc_take(&r->text, '-')) return;
        vtc_product(r, depth);
        vtc_emit(r, plus ? VTC_ADD : VTC_SUB, 0);
    }
}

static int vtc_constant(const vtc_size *s) { return !s->count; }

/* Which name a size is; -1 for other sizes. */
static int64_t vtc_name_of(const vtc_size *s) { return s->count == 1 && s->code->op == VTC_NAME ? s->code->value : -1; }

/* A size in JSON: an integer of at least 0, or an expression over `names`. */
static vtc_size vtc_size_in(vtc_fault *f, vtc_zone *zone, const char *what, const vtc_json *v, const vtc_names *names) {
    if (v && v->kind == VTC_WHOLE) {
        if (v->whole < 0) vtc_wrong(f, what, "a size of at least 0", v);
        return (vtc_size){NULL, 0, v->whole, NULL};
    }
    vtc_expect(f, what, v, VTC_TEXT);
    if (v->length > VTC_SIZE_TEXT) vtc_wrong(f, what, "a shorter size", v);
    vtc_size_reader r = {{f, zone, what, v->text, v->text, v->text + v->length, 0}, names, NULL, 0, 0, 0, v->text};
    r.code = vtc_make(f, zone, v->length + 1, sizeof *r.code);
    vtc_sum(&r, 0);
    vtc_skip(&r.text);
    if (r.text.at != r.text.end) vtc_no_size(&r);
    return (vtc_size){r.code, r.count, 0, v->text};
}

/* What two numbers give, rounded as in Python; 0 if that is no number of 64 bits. */
static int vtc_apply(vtc_op op, int64_t a, int64_t b, int64_t *out) {
    switch (op) {
    case VTC_ADD: return !__builtin_add_overflow(a, b, out);
    case VTC_SUB: return !__builtin_sub_overflow(a, b, out);
    case VTC_MUL: return !__builtin_mul_overflow(a, b, out);
    case VTC_MIN: return *out = a < b ? a : b, 1;
    case VTC_MAX: return *out = a > b ? a : b, 1;
    default: break;
    }
    if (!b || (b == -1 && a == INT64_MIN)) return 0;
    const int64_t rest = a % b, off = rest && (rest < 0) != (b < 0);
    *out = op == VTC_DIV ? a / b - off : rest + (off ? b : 0);
    return 1;
}

/* A size with values for its names. */
static int64_t vtc_value_at(vtc_fault *f, const vtc_size *s, const int64_t *values) {
    if (!s->count) return s->value;
    int64_t stack[VTC_SIZE_DEPTH + 1], n = 0;
    for (const vtc_code *c = s->code; c < s->code + s->count; ++c) {
        int good = 1;
        if (c->op == VTC_CONSTANT) stack[n++] = c->value;
        else if (c->op == VTC_NAME) stack[n++] = values[c->value];
        else if (c->op == VTC_NEG) good = vtc_apply(VTC_SUB, 0, stack[n - 1], stack + n - 1);
        else --n, good = vtc_apply(c->op, stack[n - 1], stack[n], stack + n - 1);
        if (!good) vtc_fail(f, VTC_BAD_PACKAGE, "expected a size of 64 bits, got %s, which is none here", s->text);
    }
    return stack[0];
}

/* The same where less than 0 makes no sense. */
static int64_t vtc_size_at(vtc_fault *f, const vtc_size *s, const int64_t *values) {
    const int64_t n = vtc_value_at(f, s, values);
    if (n < 0) vtc_fail(f, VTC_BAD_PACKAGE, "expected a size of at least 0, got %s, which is %" PRId64 " here", s->text, n);
    return n;
}

#endif
