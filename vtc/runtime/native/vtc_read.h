/* Part of vtc_runtime.c: failures, memory that lives as long as a package, JSON, SHA-256.
 *
 * Whatever goes wrong ends in `vtc_fail`, which goes back to where the fault was set up: code that reads has no other way out. */
#ifndef VTC_READ_H
#define VTC_READ_H

enum { VTC_WORDS = 512 };

typedef struct vtc_fault {
    jmp_buf back;
    vtc_status status;
    char words[VTC_WORDS];
} vtc_fault;

static _Noreturn void vtc_fail(vtc_fault *f, vtc_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

static _Noreturn void vtc_fail(vtc_fault *f, vtc_status status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(f->words, sizeof f->words, format, values);
    va_end(values);
    f->status = status;
    longjmp(f->back, 1);
}

/* `work(f, what)`; its status. Nothing that `work` keeps in local variables survives a failure. */
static vtc_status vtc_guarded(vtc_fault *f, void (*work)(vtc_fault *, void *), void *what) {
    f->status = VTC_OK;
    if (!setjmp(f->back)) work(f, what);
    return f->status;
}

/* ---- memory ---- */

enum { VTC_BLOCK = 64 << 10 };

typedef struct vtc_block {
    struct vtc_block *next;
    size_t used, room;
    max_align_t memory[];
} vtc_block;

typedef struct vtc_zone {
    vtc_block *blocks;
} vtc_zone;

/* Room for `count` things of `size` bytes, zeroed. */
static void *vtc_make(vtc_fault *f, vtc_zone *zone, size_t count, size_t size) {
    const size_t most = SIZE_MAX / 4;
    if (size && count > most / size) vtc_fail(f, VTC_OUT_OF_MEMORY, "expected memory for %zu things of %zu bytes, got none", count, size);
    const size_t bytes = (count * size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    vtc_block *b = zone->blocks;
    if (!b || b->room - b->used < bytes) {
        const size_t room = bytes > VTC_BLOCK ? bytes : VTC_BLOCK;
        b = malloc(sizeof *b + room);
        if (!b) vtc_fail(f, VTC_OUT_OF_MEMORY, "expected %zu bytes of memory, got none", room);
        b->next = zone->blocks, b->used = 0, b->room = room;
        zone->blocks = b;
    }
    void *made = (char *)b->memory + b->used;
    b->used += bytes;
    return memset(made, 0, bytes);
}

static void vtc_free_zone(vtc_zone *zone) {
    while (zone->blocks) {
        vtc_block *b = zone->blocks;
        zone->blocks = b->next;
        free(b);
    }
}

/* ---- SHA-256 (FIPS 180-4) ---- */

static uint32_t vtc_turned(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void vtc_hash_block(uint32_t h[8], const unsigned char *p) {
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
        0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
        0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
        0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
        0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
        0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; ++i, p += 4) w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int i = 16; i < 64; ++i) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (vtc_turned(a, 7) ^ vtc_turned(a, 18) ^ a >> 3) + (vtc_turned(b, 17) ^ vtc_turned(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof v);
    /* Names turn instead of values: after eight rounds each is where it was. */
#define VTC_ROUND(a, b, c, d, e, f, g, h, i)                                                                                          \
    do {                                                                                                                              \
        const uint32_t t = h + (vtc_turned(e, 6) ^ vtc_turned(e, 11) ^ vtc_turned(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];       \
        d += t;                                                                                                                       \
        h = t + (vtc_turned(a, 2) ^ vtc_turned(a, 13) ^ vtc_turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));                           \
    } while (0)
    for (int i = 0; i < 64; i += 8) {
        VTC_ROUND(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], i);
        VTC_ROUND(v[7], v[0], v[1], v[2], v[3], v[4], v[5], v[6], i + 1);
        VTC_ROUND(v[6], v[7], v[0], v[1], v[2], v[3], v[4], v[5], i + 2);
        VTC_ROUND(v[5], v[6], v[7], v[0], v[1], v[2], v[3], v[4], i + 3);
        VTC_ROUND(v[4], v[5], v[6], v[7], v[0], v[1], v[2], v[3], i + 4);
        VTC_ROUND(v[3], v[4], v[5], v[6], v[7], v[0], v[1], v[2], i + 5);
        VTC_ROUND(v[2], v[3], v[4], v[5], v[6], v[7], v[0], v[1], i + 6);
        VTC_ROUND(v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[0], i + 7);
    }
#undef VTC_ROUND
    for (int i = 0; i < 8; ++i) h[i] += v[i];
}

/* The hash of `size` bytes as 64 hex digits and a zero. */
static void vtc_hash(const unsigned char *p, size_t size, char hex[65]) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    const size_t rest = size % 64, ends = rest < 56 ? 64 : 128;
    for (size_t k = 0; k < size / 64; ++k) vtc_hash_block(h, p + 64 * k);
    if (rest) memcpy(last, p + size - rest, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; ++i) last[ends - 1 - (size_t)i] = (unsigned char)((uint64_t)size * 8 >> 8 * i);
    for (size_t k = 0; k < ends; k += 64) vtc_hash_block(h, last + k);
    for (int i = 0; i < 8; ++i) snprintf(hex + 8 * i, 9, "%08x", (unsigned)h[i]);
}

/* The CRC-32 of zip files; it is only wanted of the manifest. */
static uint32_t vtc_crc32(const unsigned char *p, size_t size) {
    uint32_t crc = ~0u, table[256];
    for (uint32_t i = 0; i < 256; ++i) {
        table[i] = i;
        for (int k = 0; k < 8; ++k) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
    }
    while (size--) crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
    return ~crc;
}

/* ---- JSON ---- */

enum { VTC_DEPTH = 288, VTC_MOST_VALUES = 1 << 22, VTC_MOST_UNSORTED = 256 };

typedef enum vtc_kind { VTC_NULL, VTC_TRUTH, VTC_WHOLE, VTC_REAL, VTC_TEXT, VTC_LIST, VTC_OBJECT } vtc_kind;

/* A value: a number or truth in `whole`, a text of `length` bytes and a zero, or `whole` items. `from` to `to` is its source. */
typedef struct vtc_json {
    vtc_kind kind;
    int64_t whole;
    const char *text, *key, *from, *to;
    size_t length;
    struct vtc_json *items, *next;
} vtc_json;

typedef struct vtc_reader {
    vtc_fault *fault;
    vtc_zone *zone;
    const char *what, *at, *begin, *end;
    int64_t values;
} vtc_reader;

static _Noreturn void vtc_no_json(const vtc_reader *r, const char *expected) {
    vtc_fail(r->fault, VTC_BAD_PACKAGE, "%s: expected %s, got something else at byte %td", r->what, expected, r->at - r->begin);
}

static int vtc_peek(const vtc_reader *r) { return r->at < r->end ? (unsigned char)*r->at : -1; }

static void vtc_skip(vtc_reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) ++r->at;
}

static int vtc_take(vtc_reader *r, char c) {
    vtc_skip(r);
    return vtc_peek(r) == c ? (++r->at, 1) : 0;
}

static void vtc_want(vtc_reader *r, char c, const char *expected) {
    if (!vtc_take(r, c)) vtc_no_json(r, expected);
}

static unsigned vtc_four_digits(vtc_reader *r) {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i, ++r->at) {
        const int c = vtc_peek(r);
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) vtc_no_json(r, "four hex digits");
        value = value << 4 | (unsigned)digit;
    }
    return value;
}

static char *vtc_utf8(char *out, unsigned c) {
    if (c < 0x80) return *out++ = (char)c, out;
    if (c < 0x800) *out++ = (char)(0xc0 | c >> 6);
    else {
        if (c < 0x10000) *out++ = (char)(0xe0 | c >> 12);
        else *out++ = (char)(0xf0 | c >> 18), *out++ = (char)(0x80 | (c >> 12 & 63));
        *out++ = (char)(0x80 | (c >> 6 & 63));
    }
    *out++ = (char)(0x80 | (c & 63));
    return out;
}

/* What follows a backslash. A text may hold no zero: texts end with one. */
static char *vtc_escaped(vtc_reader *r, char *out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const int c = vtc_peek(r);
    const char *found = c > 0 ? strchr(from, c) : NULL;
    ++r->at;
    if (found) return *out++ = to[found - from], out;
    if (c != 'u') vtc_no_json(r, "an escape");
    unsigned code = vtc_four_digits(r);
    if (code >= 0xd800 && code < 0xdc00) {
        if (!(r->end - r->at > 2 && r->at[0] == '\\' && r->at[1] == 'u')) vtc_no_json(r, "the second half of a character");
        r->at += 2;
        const unsigned low = vtc_four_digits(r);
        if (low < 0xdc00 || low > 0xdfff) vtc_no_json(r, "the second half of a character");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (!code || (code >= 0xdc00 && code < 0xe000)) vtc_no_json(r, "a character");
    return vtc_utf8(out, code);
}

/* The text that begins here; its length in `*length`. */
static const char *vtc_read_text(vtc_reader *r, size_t *length) {
    vtc_want(r, '"', "a text");
    const char *end = r->at;
    while (end < r->end && *end != '"') end += *end == '\\' && end + 1 < r->end ? 2 : 1;
    if (end >= r->end) vtc_no_json(r, "the end of a text");
    char *text = vtc_make(r->fault, r->zone, (size_t)(end - r->at) + 1, 1), *out = text;
    while (r->at < end) {
        const unsigned char c = (unsigned char)*r->at++;
        if (c < 0x20) vtc_no_json(r, "no control character");
        if (c == '\\') out = vtc_escaped(r, out);
        else *out++ = (char)c;
    }
    if (r->at != end) vtc_no_json(r, "the end of a text");
    ++r->at;
    *length = (size_t)(out - text);
    return text;
}

static void vtc_read_digits(vtc_reader *r) {
    const char *from = r->at;
    while (vtc_peek(r) >= '0' && vtc_peek(r) <= '9') ++r->at;
    if (r->at == from) vtc_no_json(r, "digits");
}

static void vtc_read_number(vtc_reader *r, vtc_json *v) {
    const int negative = vtc_peek(r) == '-';
    int overflow = 0;
    r->at += negative;
    const char *from = r->at;
    vtc_read_digits(r);
    if (*from == '0' && r->at - from > 1) vtc_no_json(r, "a number without zeros before it");
    v->kind = VTC_WHOLE;
    for (const char *p = from; p < r->at; ++p)
        overflow |= __builtin_mul_overflow(v->whole, (int64_t)10, &v->whole) || __builtin_sub_overflow(v->whole, (int64_t)(*p - '0'), &v->whole);
    if (!negative) overflow |= __builtin_sub_overflow((int64_t)0, v->whole, &v->whole);
    if (overflow) v->kind = VTC_REAL;
    if (vtc_peek(r) == '.') ++r->at, vtc_read_digits(r), v->kind = VTC_REAL;
    if (vtc_peek(r) == 'e' || vtc_peek(r) == 'E') {
        ++r->at, v->kind = VTC_REAL;
        if (vtc_peek(r) == '+' || vtc_peek(r) == '-') ++r->at;
        vtc_read_digits(r);
    }
}

static void vtc_read_word(vtc_reader *r, vtc_json *v) {
    static const struct { const char *text; vtc_kind kind; int64_t whole; } words[] = {
        {"null", VTC_NULL, 0}, {"true", VTC_TRUTH, 1}, {"false", VTC_TRUTH, 0}};
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i) {
        const size_t n = strlen(words[i].text);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].text, n)) continue;
        v->kind = words[i].kind, v->whole = words[i].whole;
        r->at += n;
        return;
    }
    if (vtc_peek(r) != '-' && (vtc_peek(r) < '0' || vtc_peek(r) > '9')) vtc_no_json(r, "a value");
    vtc_read_number(r, v);
}

static void vtc_distinct(const vtc_reader *r, const vtc_json *object, const vtc_json *last, const vtc_json *new) {
    if (!last || strcmp(last->key, new->key) < 0) return;
    if (object->whole > VTC_MOST_UNSORTED) vtc_no_json(r, "sorted names");
    for (const vtc_json *i = object->items; i; i = i->next)
        if (!strcmp(i->key, new->key)) vtc_fail(r->fault, VTC_BAD_PACKAGE, "%s: expected distinct names, got \"%s\" twice", r->what, new->key);
}

static vtc_json *vtc_read_value(vtc_reader *r, int depth) {
    if (depth > VTC_DEPTH) vtc_no_json(r, "values that are less deep");
    if (++r->values > VTC_MOST_VALUES) vtc_no_json(r, "fewer values");
    vtc_json *v = vtc_make(r->fault, r->zone, 1, sizeof *v), *last = NULL, **end = &v->items;
    size_t length;
    vtc_skip(r);
    v->from = r->at;
    const int c = vtc_peek(r);
    if (c == '"') v->kind = VTC_TEXT, v->text = vtc_read_text(r, &v->length);
    else if (c != '[' && c != '{') vtc_read_word(r, v);
    else {
        const char close = c == '[' ? ']' : '}';
        v->kind = c == '[' ? VTC_LIST : VTC_OBJECT;
        ++r->at;
        if (!vtc_take(r, close)) {
            do {
                const char *key = NULL;
                if (c == '{') {
                    vtc_skip(r);
                    key = vtc_read_text(r, &length);
                    vtc_want(r, ':', "':'");
                }
                vtc_json *item = vtc_read_value(r, depth + 1);
                item->key = key;
                if (key) vtc_distinct(r, v, last, item);
                *end = last = item, end = &item->next;
                ++v->whole;
            } while (vtc_take(r, ','));
            vtc_want(r, close, c == '[' ? "',' or ']'" : "',' or '}'");
        }
    }
    v->to = r->at;
    return v;
}

/* The value that `size` bytes spell; `what` names them in errors. */
static vtc_json *vtc_parse(vtc_fault *f, vtc_zone *zone, const char *what, const void *bytes, size_t size) {
    vtc_reader r = {f, zone, what, bytes, bytes, (const char *)bytes + size, 0};
    vtc_json *v = vtc_read_value(&r, 0);
    vtc_skip(&r);
    if (r.at != r.end) vtc_no_json(&r, "the end");
    return v;
}

/* At most 80 bytes of a value, on one line. */
static void vtc_shorten(char out[84], const vtc_json *v) {
    size_t n = 0;
    for (const char *c = v->from; c < v->to && n < 81; ++c) {
        const int folded = *c == '\n' || *c == '\r' || *c == '\t' || (*c == ' ' && n && out[n - 1] == ' ');
        if (!folded) out[n++] = *c;
    }
    if (n > 80) memcpy(out + 77, "...", 3), n = 80;
    out[n] = 0;
}

static _Noreturn void vtc_wrong(vtc_fault *f, const char *what, const char *expected, const vtc_json *got) {
    char shown[84] = "nothing";
    if (got) vtc_shorten(shown, got);
    vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected %s, got %s", what, expected, shown);
}

static const vtc_json *vtc_expect(vtc_fault *f, const char *what, const vtc_json *v, vtc_kind kind) {
    static const char *const names[] = {"null", "true or false", "an integer", "a number", "a text", "a list", "an object"};
    if (!v || v->kind != kind) vtc_wrong(f, what, names[kind], v);
    return v;
}

/* The member `key` of an object; null if there is none. */
static const vtc_json *vtc_find(const vtc_json *object, const char *key) {
    const vtc_json *i = object->kind == VTC_OBJECT ? object->items : NULL;
    while (i && strcmp(i->key, key)) i = i->next;
    return i;
}

static const vtc_json *vtc_get(vtc_fault *f, const char *what, const vtc_json *object, const char *key, vtc_kind kind) {
    const vtc_json *found = vtc_find(vtc_expect(f, what, object, VTC_OBJECT), key);
    char words[128];
    snprintf(words, sizeof words, "%.60s, \"%.50s\"", what, key);
    return vtc_expect(f, words, found, kind);
}

/* An integer from `least` to `most`. */
static int64_t vtc_whole(vtc_fault *f, const char *what, const vtc_json *v, int64_t least, int64_t most) {
    const int64_t n = vtc_expect(f, what, v, VTC_WHOLE)->whole;
    if (n < least || n > most) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected an integer from %" PRId64 " to %" PRId64 ", got %" PRId64, what, least, most, n);
    return n;
}

/* The items of a list of exactly `count`. */
static const vtc_json *vtc_record(vtc_fault *f, const char *what, const vtc_json *v, int64_t count, const char *expected) {
    if (!v || v->kind != VTC_LIST || v->whole != count) vtc_wrong(f, what, expected, v);
    return v->items;
}

#endif
