/* Part of vtc_runtime.c: the file of a package and what is in it: members, weights.
 *
 * The file is a zip that stores its members. It is canonical: names, sizes and CRCs, which are in the manifest, say what every
 * byte outside the data of members is. So these bytes are made again and compared. docs/packages.md has the format. */
#ifndef VTC_PACKAGE_H
#define VTC_PACKAGE_H

enum {
    VTC_FORMAT = 1,
    VTC_ALIGNMENT = 64,
    VTC_MOST_MEMBERS = 10000,
    VTC_LONGEST_NAME = 255,
    VTC_LARGEST_MANIFEST = 1 << 26,
    VTC_LARGEST_HEADER = 100000000
};
static const char VTC_MANIFEST[] = "manifest.json", VTC_WEIGHTS[] = "weights.safetensors";
static const int64_t VTC_MOST = ((int64_t)1 << 62) - 1; /* sums of two do not overflow */

typedef struct vtc_map {
    void *at;
    size_t size;
    struct vtc_map *next;
} vtc_map;

typedef struct vtc_member {
    const char *name, *sha256;
    const unsigned char *data;
    uint64_t size;
    uint32_t crc;
} vtc_member;

/* A tensor of the package. Its values in the file are at `stored`; `tensor.data` is where calls find them. */
typedef struct vtc_weight {
    const char *name;
    vtc_tensor tensor;
    const unsigned char *stored;
    int state;
} vtc_weight;

typedef struct vtc_failure {
    struct vtc_failure *next;
    char words[VTC_WORDS];
} vtc_failure;

struct vtc_package {
    vtc_zone zone;
    vtc_options options;
    int open, has_key, has_lock, has_changed;
    pthread_key_t key; /* of this thread's vtc_failure */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    vtc_failure *failures;
    vtc_map *maps;
    int file;
    const char *path;
    const unsigned char *bytes;
    size_t size;
    vtc_member *members; /* by name; the weights last */
    int64_t member_count;
    const vtc_json *manifest;
    const char *target, *description;
    vtc_weight *weights;
    struct vtc_entry *entries;
    int64_t weight_count, entry_count;
    void *state; /* memory for state on the CPU, where the file is not mapped */
    struct vtc_library *libraries;
    struct vtc_crew *crew;
    struct vtc_cuda *cuda;
    struct vtc_claim *claims;
    int64_t waiting;
};

static const struct { const char *name, *safetensors; int32_t bytes; } VTC_DTYPES[] = {
    {"none", "", 0}, {"bool", "BOOL", 1}, {"u8", "U8", 1}, {"i8", "I8", 1}, {"i16", "I16", 2}, {"i32", "I32", 4}, {"i64", "I64", 8},
    {"f8e4m3", "F8_E4M3", 1}, {"f8e5m2", "F8_E5M2", 1}, {"f16", "F16", 2}, {"bf16", "BF16", 2}, {"f32", "F32", 4}, {"f64", "F64", 8},
    {"c64", "C64", 8}, {"c128", "C128", 16}};

static int32_t vtc_dtype_in(vtc_fault *f, const char *what, const vtc_json *v) {
    const char *name = vtc_expect(f, what, v, VTC_TEXT)->text;
    for (int32_t d = VTC_BOOL; d <= VTC_C128; ++d)
        if (!strcmp(name, VTC_DTYPES[d].name)) return d;
    vtc_wrong(f, what, "a dtype", v);
}

/* ---- mapping files ---- */

static const unsigned char *vtc_map_file(vtc_fault *f, vtc_package *p, const char *path, size_t *size, int *keep) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (file < 0) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a file, got %s", path, strerror(errno));
    if (fstat(file, &about) || !S_ISREG(about.st_mode) || (uint64_t)about.st_size > SIZE_MAX / 2) {
        close(file);
        vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a file, got something else", path);
    }
    *size = (size_t)about.st_size;
    void *at = *size ? mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
    if (keep && at != MAP_FAILED) *keep = file;
    else close(file);
    if (at == MAP_FAILED) vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected to map %zu bytes, got %s", path, *size, strerror(errno));
    if (!at) return (const unsigned char *)"";
    vtc_map *m = malloc(sizeof *m);
    if (!m) {
        munmap(at, *size);
        vtc_fail(f, VTC_OUT_OF_MEMORY, "%s: expected memory, got none", path);
    }
    *m = (vtc_map){at, *size, p->maps};
    p->maps = m;
    return at;
}

/* ---- members ---- */

static _Noreturn void vtc_damaged(vtc_fault *f, const vtc_package *p, const char *what) {
    vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected %s as it was written, got other bytes", p->path, what);
}

static const vtc_member *vtc_member_of(const vtc_package *p, const char *name) {
    for (int64_t low = 0, high = p->member_count; low < high;) {
        const int64_t middle = low + (high - low) / 2;
        const vtc_member *m = p->members + middle;
        const int later = !strcmp(m->name, VTC_WEIGHTS) - !strcmp(name, VTC_WEIGHTS);
        const int order = later ? later : strcmp(m->name, name);
        if (!order) return m;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static void vtc_check_name(vtc_fault *f, const char *name) {
    const size_t n = strlen(name);
    int good = n > 0 && n <= VTC_LONGEST_NAME && strcmp(name, VTC_MANIFEST) && name[0] != '/' && name[n - 1] != '/' && !strstr(name, "//");
    for (const char *part = name; good && part;) {
        const size_t size = strcspn(part, "/");
        good = !(size == 1 && part[0] == '.') && !(size == 2 && part[0] == '.' && part[1] == '.');
        part = part[size] ? part + size + 1 : NULL;
    }
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-/") != n && strcmp(name, "LICENSE")) good = 0;
    if (!good) vtc_fail(f, VTC_BAD_PACKAGE, "manifest: expected a relative path of a-z, 0-9, '_', '.' and '-' without '..', got the member \"%.80s\"", name);
}

static const char *vtc_hex(vtc_fault *f, const vtc_json *object, const char *key, size_t digits) {
    const vtc_json *v = vtc_get(f, "manifest: member", object, key, VTC_TEXT);
    if (v->length != digits || strspn(v->text, "0123456789abcdef") != digits) vtc_wrong(f, "manifest: member", "hex digits", v);
    return v->text;
}

static void vtc_read_members(vtc_fault *f, vtc_package *p) {
    const vtc_json *all = vtc_get(f, "manifest", p->manifest, "members", VTC_OBJECT);
    const vtc_json *weights = vtc_find(all, VTC_WEIGHTS);
    if (all->whole > VTC_MOST_MEMBERS) vtc_fail(f, VTC_BAD_PACKAGE, "manifest: expected at most %d members, got %" PRId64, VTC_MOST_MEMBERS, all->whole);
    p->members = vtc_make(f, &p->zone, (size_t)all->whole + 1, sizeof *p->members);
    const char *last = "";
    for (const vtc_json *i = all->items;; i = i->next) {
        while (i && i == weights) i = i->next;
        const vtc_json *v = i ? i : p->member_count < all->whole ? weights : NULL;
        if (!v) break;
        vtc_member *m = p->members + p->member_count++;
        m->name = v->key;
        vtc_check_name(f, m->name);
        if (v != weights && strcmp(last, m->name) >= 0) vtc_fail(f, VTC_BAD_PACKAGE, "manifest: expected sorted members, got \"%.80s\" after \"%.80s\"", m->name, last);
        last = m->name;
        m->size = (uint64_t)vtc_whole(f, "manifest: member", vtc_get(f, "manifest: member", v, "bytes", VTC_WHOLE), 0, VTC_MOST);
        m->crc = (uint32_t)strtoul(vtc_hex(f, v, "crc32", 8), NULL, 16);
        m->sha256 = vtc_hex(f, v, "sha256", 64);
        if (!i) break;
    }
}

/* ---- the zip ---- */

typedef struct vtc_bytes {
    unsigned char at[1024];
    size_t size;
} vtc_bytes;

static void vtc_put(vtc_bytes *b, int bytes, uint64_t value) {
    for (int i = 0; i < bytes; ++i) b->at[b->size++] = (unsigned char)(value >> 8 * i);
}

static void vtc_put_text(vtc_bytes *b, const char *text, size_t size) {
    memcpy(b->at + b->size, text, size);
    b->size += size;
}

static uint64_t vtc_small(uint64_t n) { return n < 0xffffffff ? n : 0xffffffff; }

static void vtc_put_member(vtc_bytes *b, const vtc_member *m, uint64_t large) {
    static const uint64_t version = 45, date = 0x21;
    vtc_put(b, 2, version), vtc_put(b, 2, 0), vtc_put(b, 2, 0), vtc_put(b, 2, 0), vtc_put(b, 2, date);
    vtc_put(b, 4, m->crc), vtc_put(b, 4, vtc_small(m->size)), vtc_put(b, 4, vtc_small(m->size));
    vtc_put(b, 2, strlen(m->name)), vtc_put(b, 2, large);
}

/* The bytes before the data of a member, at `at` in the file. */
static void vtc_header(vtc_bytes *b, const vtc_member *m, uint64_t at) {
    const uint64_t large = m->size >= 0xffffffff ? 20 : 0, fixed = 30 + strlen(m->name) + large + 4;
    const uint64_t padding = (VTC_ALIGNMENT - (at + fixed) % VTC_ALIGNMENT) % VTC_ALIGNMENT;
    b->size = 0;
    vtc_put_text(b, "PK\3\4", 4);
    vtc_put_member(b, m, large + 4 + padding);
    vtc_put_text(b, m->name, strlen(m->name));
    if (large) vtc_put(b, 2, 1), vtc_put(b, 2, 16), vtc_put(b, 8, m->size), vtc_put(b, 8, m->size);
    vtc_put(b, 2, 0x7476), vtc_put(b, 2, padding);
    memset(b->at + b->size, 0, padding);
    b->size += padding;
}

/* The entry of a member in the directory. */
static void vtc_directory(vtc_bytes *b, const vtc_member *m, uint64_t at) {
    const uint64_t sizes = m->size >= 0xffffffff ? 16 : 0, place = at >= 0xffffffff ? 8 : 0, large = sizes + place;
    b->size = 0;
    vtc_put_text(b, "PK\1\2", 4), vtc_put(b, 2, 45);
    vtc_put_member(b, m, large ? large + 4 : 0);
    vtc_put(b, 2, 0), vtc_put(b, 2, 0), vtc_put(b, 2, 0), vtc_put(b, 4, 0), vtc_put(b, 4, vtc_small(at));
    vtc_put_text(b, m->name, strlen(m->name));
    if (large) vtc_put(b, 2, 1), vtc_put(b, 2, large);
    if (sizes) vtc_put(b, 8, m->size), vtc_put(b, 8, m->size);
    if (place) vtc_put(b, 8, at);
}

/* What follows the directory of `count` members. */
static void vtc_ending(vtc_bytes *b, uint64_t count, uint64_t bytes, uint64_t at, const char *comment) {
    b->size = 0;
    if (at >= 0xffffffff) {
        vtc_put_text(b, "PK\6\6", 4), vtc_put(b, 8, 44), vtc_put(b, 2, 45), vtc_put(b, 2, 45), vtc_put(b, 4, 0), vtc_put(b, 4, 0);
        vtc_put(b, 8, count), vtc_put(b, 8, count), vtc_put(b, 8, bytes), vtc_put(b, 8, at);
        vtc_put_text(b, "PK\6\7", 4), vtc_put(b, 4, 0), vtc_put(b, 8, at + bytes), vtc_put(b, 4, 1);
    }
    vtc_put_text(b, "PK\5\6", 4), vtc_put(b, 2, 0), vtc_put(b, 2, 0), vtc_put(b, 2, count), vtc_put(b, 2, count);
    vtc_put(b, 4, bytes), vtc_put(b, 4, vtc_small(at)), vtc_put(b, 2, 64);
    vtc_put_text(b, comment, 64);
}

/* The file has these bytes at `*at`, which moves behind them. */
static void vtc_same(vtc_fault *f, const vtc_package *p, const vtc_bytes *b, uint64_t *at, const char *what) {
    if (*at > p->size || p->size - *at < b->size || memcmp(p->bytes + *at, b->at, b->size)) vtc_damaged(f, p, what);
    *at += b->size;
}

static vtc_member vtc_find_manifest(vtc_fault *f, vtc_package *p, char comment[65]) {
    const unsigned char *b = p->bytes;
    const size_t name = sizeof VTC_MANIFEST - 1;
    if (p->size < 30 + name || memcmp(b, "PK\3\4", 4) || memcmp(b + 30, VTC_MANIFEST, name))
        vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a package, got a file of another kind", p->path);
    const size_t size = b[22] | (size_t)b[23] << 8 | (size_t)b[24] << 16 | (size_t)b[25] << 24;
    const size_t start = 30 + (b[26] | (size_t)b[27] << 8) + (b[28] | (size_t)b[29] << 8);
    if (size > VTC_LARGEST_MANIFEST || start + size + 64 > p->size)
        vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a manifest, got a file that is cut short", p->path);
    vtc_hash(b + start, size, comment);
    if (memcmp(b + p->size - 64, comment, 64)) vtc_damaged(f, p, "the hash of manifest.json at its end");
    return (vtc_member){VTC_MANIFEST, comment, b + start, size, vtc_crc32(b + start, size)};
}

static void vtc_read_zip(vtc_fault *f, vtc_package *p) {
    char comment[65];
    const vtc_member manifest = vtc_find_manifest(f, p, comment);
    p->manifest = vtc_parse(f, &p->zone, "manifest", manifest.data, manifest.size);
    vtc_read_members(f, p);
    vtc_bytes b;
    uint64_t at = 0, *starts = vtc_make(f, &p->zone, (size_t)p->member_count + 1, sizeof *starts);
    for (int64_t i = -1; i < p->member_count; ++i) {
        vtc_member *m = i < 0 ? NULL : p->members + i;
        const vtc_member *here = m ? m : &manifest;
        starts[i + 1] = at;
        vtc_header(&b, here, at);
        vtc_same(f, p, &b, &at, "the header of a member");
        if (m) m->data = p->bytes + at;
        if (here->size > p->size - at) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected %" PRIu64 " bytes of %s, got %" PRIu64, p->path, here->size, here->name, p->size - at);
        at += here->size;
    }
    const uint64_t directory = at;
    for (int64_t i = -1; i < p->member_count; ++i) {
        vtc_directory(&b, i < 0 ? &manifest : p->members + i, starts[i + 1]);
        vtc_same(f, p, &b, &at, "its directory");
    }
    vtc_ending(&b, (uint64_t)p->member_count + 1, at - directory, directory, comment);
    vtc_same(f, p, &b, &at, "its directory");
    if (at != p->size) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected %" PRIu64 " bytes, got %zu", p->path, at, p->size);
}

/* A folder with the members as files. */
static void vtc_read_folder(vtc_fault *f, vtc_package *p) {
    const size_t room = strlen(p->path) + VTC_LONGEST_NAME + 2;
    char *path = vtc_make(f, &p->zone, room, 1);
    size_t size;
    snprintf(path, room, "%s/%s", p->path, VTC_MANIFEST);
    const unsigned char *text = vtc_map_file(f, p, path, &size, NULL);
    if (size > VTC_LARGEST_MANIFEST) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a smaller file", path);
    p->manifest = vtc_parse(f, &p->zone, "manifest", text, size);
    vtc_read_members(f, p);
    for (vtc_member *m = p->members; m < p->members + p->member_count; ++m) {
        snprintf(path, room, "%s/%s", p->path, m->name);
        m->data = vtc_map_file(f, p, path, &size, NULL);
        if (size != m->size) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected %" PRIu64 " bytes, got %zu", path, m->size, size);
    }
}

static void vtc_check_members(vtc_fault *f, vtc_package *p) {
    for (const vtc_member *m = p->members; m < p->members + p->member_count; ++m) {
        char hash[65];
        if (!strcmp(m->name, VTC_WEIGHTS) && !p->options.full_check) continue;
        vtc_hash(m->data, m->size, hash);
        if (strcmp(hash, m->sha256)) vtc_damaged(f, p, m->name);
    }
}

/* ---- weights ---- */

/* The bytes of a shape of numbers. */
static int64_t vtc_bytes_of(vtc_fault *f, const char *what, const vtc_tensor *t) {
    int64_t n = VTC_DTYPES[t->dtype].bytes;
    for (int32_t i = 0; i < t->rank; ++i)
        if (__builtin_mul_overflow(n, t->shape[i], &n)) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a size of 64 bits, got a larger one", what);
    return n;
}

static void vtc_shape_in(vtc_fault *f, const char *what, const vtc_json *v, vtc_tensor *t) {
    vtc_expect(f, what, v, VTC_LIST);
    if (v->whole > VTC_MAX_RANK) vtc_wrong(f, what, "at most 8 axes", v);
    for (const vtc_json *i = v->items; i; i = i->next) t->shape[t->rank++] = vtc_whole(f, what, i, 0, VTC_MOST);
}

static int vtc_by_name(const void *a, const void *b) { return strcmp(((const vtc_weight *)a)->name, ((const vtc_weight *)b)->name); }

static vtc_weight *vtc_weight_of(const vtc_package *p, const char *name) {
    const vtc_weight key = {.name = name};
    return p->weight_count ? bsearch(&key, p->weights, (size_t)p->weight_count, sizeof key, vtc_by_name) : NULL;
}

static void vtc_read_weights(vtc_fault *f, vtc_package *p) {
    const vtc_json *all = vtc_get(f, "manifest", p->manifest, "weights", VTC_OBJECT);
    p->weights = vtc_make(f, &p->zone, (size_t)all->whole, sizeof *p->weights);
    for (const vtc_json *i = all->items; i; i = i->next) {
        vtc_weight *w = p->weights + p->weight_count++;
        char what[128];
        snprintf(what, sizeof what, "manifest: weight %.100s", i->key);
        w->name = i->key;
        w->tensor.dtype = vtc_dtype_in(f, what, vtc_get(f, what, i, "dtype", VTC_TEXT));
        vtc_shape_in(f, what, vtc_get(f, what, i, "shape", VTC_LIST), &w->tensor);
        w->tensor.bytes = vtc_bytes_of(f, what, &w->tensor);
        w->state = (int)vtc_get(f, what, i, "state", VTC_TRUTH)->whole;
        w->tensor.read_only = !w->state;
    }
    if (p->weight_count) qsort(p->weights, (size_t)p->weight_count, sizeof *p->weights, vtc_by_name);
}

typedef struct vtc_span {
    int64_t from, to;
} vtc_span;

static int vtc_by_place(const void *a, const void *b) {
    const vtc_span *x = a, *y = b;
    return x->from != y->from ? (x->from < y->from ? -1 : 1) : (x->to > y->to) - (x->to < y->to);
}

/* Where one tensor of a safetensors file lies in its data; it is noted if it is a weight of the package. */
static vtc_span vtc_read_tensor(vtc_fault *f, vtc_package *p, const vtc_json *v, const unsigned char *data, int64_t size) {
    char what[128];
    snprintf(what, sizeof what, "weights: %.100s", v->key);
    vtc_tensor t = {0};
    const vtc_json *dtype = vtc_get(f, what, v, "dtype", VTC_TEXT), *ends = vtc_get(f, what, v, "data_offsets", VTC_LIST);
    const vtc_json *from = vtc_record(f, what, ends, 2, "two offsets");
    const vtc_span span = {vtc_whole(f, what, from, 0, size), vtc_whole(f, what, from->next, 0, size)};
    vtc_weight *w = vtc_weight_of(p, v->key);
    if (span.from > span.to) vtc_wrong(f, what, "an end behind the begin", ends);
    if (!w) return span;
    vtc_shape_in(f, what, vtc_get(f, what, v, "shape", VTC_LIST), &t);
    if (strcmp(dtype->text, VTC_DTYPES[w->tensor.dtype].safetensors)) vtc_wrong(f, what, VTC_DTYPES[w->tensor.dtype].safetensors, dtype);
    if (t.rank != w->tensor.rank || memcmp(t.shape, w->tensor.shape, sizeof t.shape)) vtc_wrong(f, what, "the shape in the manifest", vtc_find(v, "shape"));
    if (span.to - span.from != w->tensor.bytes) vtc_wrong(f, what, "as many bytes as its shape has", ends);
    w->stored = data + span.from;
    if ((uintptr_t)w->stored % (uintptr_t)VTC_DTYPES[w->tensor.dtype].bytes) /* a file that another wrote */
        w->stored = memcpy(vtc_make(f, &p->zone, (size_t)w->tensor.bytes, 1), w->stored, (size_t)w->tensor.bytes);
    return span;
}

/* Find weights in the bytes of a safetensors file: how many there are. */
static int64_t vtc_read_safetensors(vtc_fault *f, vtc_package *p, const unsigned char *bytes, uint64_t size) {
    uint64_t head = 0;
    for (int i = 0; size >= 8 && i < 8; ++i) head |= (uint64_t)bytes[i] << 8 * i;
    if (size < 8 || head > size - 8 || head > VTC_LARGEST_HEADER) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a header within %" PRIu64 " bytes, got one of %" PRIu64, size, head);
    const vtc_json *root = vtc_expect(f, "weights", vtc_parse(f, &p->zone, "weights", bytes + 8, head), VTC_OBJECT);
    vtc_span *spans = vtc_make(f, &p->zone, (size_t)root->whole + 1, sizeof *spans);
    size_t count = 0;
    int64_t known = 0;
    for (const vtc_json *i = root->items; i; i = i->next) {
        if (!strcmp(i->key, "__metadata__")) continue;
        spans[count++] = vtc_read_tensor(f, p, i, bytes + 8 + head, (int64_t)(size - 8 - head));
        known += vtc_weight_of(p, i->key) != NULL;
    }
    qsort(spans, count, sizeof *spans, vtc_by_place);
    int64_t end = 0;
    for (size_t i = 0; i < count; end = spans[i++].to)
        if (spans[i].from != end) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a tensor at byte %" PRId64 " of the data, got one at %" PRId64, end, spans[i].from);
    if ((uint64_t)end != size - 8 - head) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected %" PRId64 " bytes of data, got %" PRIu64, end, size - 8 - head);
    return known;
}

static void vtc_find_weights(vtc_fault *f, vtc_package *p) {
    const vtc_member *m = vtc_member_of(p, VTC_WEIGHTS);
    size_t size;
    vtc_read_weights(f, p);
    if (m) vtc_read_safetensors(f, p, m->data, m->size);
    if (p->options.weights) {
        const unsigned char *bytes = vtc_map_file(f, p, p->options.weights, &size, NULL);
        if (!vtc_read_safetensors(f, p, bytes, size) && p->weight_count)
            vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected weights like %s, got no such", p->options.weights, p->weights->name);
    }
    for (const vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) {
        if (w->stored) continue;
        if (p->options.weights) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a tensor %s, got none", w->name);
        vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected the weight %s, got a package without it: name a safetensors file in the options", p->path, w->name);
    }
}

#endif
