/* Part of vtc_runtime.c: the file of a package and what is in it: members, weights, entries, plans.
 *
 * The file is a zip that stores its members. It is canonical: names, sizes and CRCs, which are in the manifest, say what every
 * byte outside the data of members is. So these bytes are made again and compared. docs/packages.md has the format. */
#ifndef VTC_PACKAGE_H
#define VTC_PACKAGE_H

enum {
    VTC_FORMAT = 1,
    VTC_PLAN_FORMAT = 4,
    VTC_ALIGNMENT = 64,
    VTC_MOST_MEMBERS = 10000,
    VTC_LONGEST_NAME = 255,
    VTC_LARGEST_MANIFEST = 1 << 26,
    VTC_LARGEST_HEADER = 100000000,
    VTC_MOST_DIMS = 32,
    VTC_CORNERS = 6,   /* dims up to which every combination of ends of ranges is looked at */
    VTC_FAR = 1 << 16  /* where a range without an end is looked at */
};
static const char VTC_MANIFEST[] = "manifest.json", VTC_WEIGHTS[] = "weights.safetensors";
static const int64_t VTC_MOST = ((int64_t)1 << 62) - 1; /* sums of two do not overflow */
static const int64_t VTC_LARGEST = (int64_t)1 << 47;     /* bytes: more than a process can address */

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

typedef struct vtc_ref {
    char kind; /* 'i', 'o' or 'a': input, output, arena */
    int64_t index;
    vtc_size offset;
} vtc_ref;

typedef struct vtc_code_of {
    const char *name, *symbol;
    int checks, table;
    const vtc_member *cubin;
    int64_t warps, shared, scratch, alignment;
    void *function;
} vtc_code_of;

/* A launch of `kernel`, or (null) a copy of `bytes` bytes from args[1] to args[0]. */
typedef struct vtc_step {
    const vtc_code_of *kernel;
    const vtc_ref *args;
    const vtc_size *sizes;
    const int64_t *after; /* the steps that it waits for */
    int64_t arg_count, size_count, after_count;
    vtc_size grid[3], bytes;
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
    const vtc_step *steps;
    int64_t dim_count, input_count, output_count, kernel_count, step_count;
    vtc_host *host;
    const struct vtc_variant *variant;
    struct vtc_instance *instances;
    int64_t instance_count;
} vtc_plan;

/* Where an input of a plan or a result of an entry comes from. */
typedef struct vtc_source {
    char kind; /* 'i', 'w', 'o', 'v': input, weight, output, value */
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
    vtc_entry *entries;
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

/* Find the weights in the bytes of a safetensors file. */
static void vtc_read_safetensors(vtc_fault *f, vtc_package *p, const unsigned char *bytes, uint64_t size) {
    uint64_t head = 0;
    for (int i = 0; size >= 8 && i < 8; ++i) head |= (uint64_t)bytes[i] << 8 * i;
    if (size < 8 || head > size - 8 || head > VTC_LARGEST_HEADER) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a header within %" PRIu64 " bytes, got one of %" PRIu64, size, head);
    const vtc_json *root = vtc_expect(f, "weights", vtc_parse(f, &p->zone, "weights", bytes + 8, head), VTC_OBJECT);
    vtc_span *spans = vtc_make(f, &p->zone, (size_t)root->whole + 1, sizeof *spans);
    size_t count = 0;
    for (const vtc_json *i = root->items; i; i = i->next)
        if (strcmp(i->key, "__metadata__")) spans[count++] = vtc_read_tensor(f, p, i, bytes + 8 + head, (int64_t)(size - 8 - head));
    qsort(spans, count, sizeof *spans, vtc_by_place);
    int64_t end = 0;
    for (size_t i = 0; i < count; end = spans[i++].to)
        if (spans[i].from != end) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a tensor at byte %" PRId64 " of the data, got one at %" PRId64, end, spans[i].from);
    if ((uint64_t)end != size - 8 - head) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected %" PRId64 " bytes of data, got %" PRIu64, end, size - 8 - head);
    for (const vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w)
        if (!w->stored) vtc_fail(f, VTC_BAD_PACKAGE, "weights: expected a tensor %s, got none", w->name);
}

static void vtc_find_weights(vtc_fault *f, vtc_package *p) {
    const vtc_member *m = vtc_member_of(p, VTC_WEIGHTS);
    size_t size;
    vtc_read_weights(f, p);
    if (p->options.weights) {
        const unsigned char *bytes = vtc_map_file(f, p, p->options.weights, &size, NULL);
        vtc_read_safetensors(f, p, bytes, size);
    } else if (m) vtc_read_safetensors(f, p, m->data, m->size);
    else if (p->weight_count) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected weights, got a package without them: name a safetensors file in the options", p->path);
}

/* ---- plans ---- */

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

typedef struct vtc_plan_reader {
    vtc_fault *fault;
    vtc_package *package;
    const char *what;
    vtc_names names;
    vtc_plan *plan;
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

/* `ref` is memory of the plan with room for `bytes`. With `values` null only numbers are looked at. */
static void vtc_check_ref(vtc_fault *f, const vtc_plan *n, const vtc_ref *ref, const vtc_size *bytes, const int64_t *values) {
    const vtc_buffer *b = ref->kind == 'i' ? n->inputs + ref->index : n->outputs + ref->index;
    if (!values && (ref->kind == 'a' ? !vtc_constant(&n->arena) || !vtc_constant(&ref->offset) : !vtc_static_buffer(b))) return;
    int64_t room = ref->kind == 'a' ? vtc_size_at(f, &n->arena, values) - vtc_size_at(f, &ref->offset, values) : vtc_buffer_bytes(f, b, values);
    if (bytes && (values || vtc_constant(bytes))) room -= vtc_size_at(f, bytes, values);
    if (room < 0) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected memory of the plan, got a place outside it", n->name);
}

static void vtc_ref_in(vtc_plan_reader *r, const vtc_json *v, vtc_ref *ref) {
    vtc_fault *f = r->fault;
    const vtc_json *kind = vtc_record(f, r->what, v, 2, "a reference [kind, place]"), *at = kind->next;
    const char *name = vtc_expect(f, r->what, kind, VTC_TEXT)->text;
    const int in = !strcmp(name, "in"), out = !strcmp(name, "out");
    if (!in && !out && strcmp(name, "arena")) vtc_wrong(f, r->what, "in, out or arena", kind);
    ref->kind = in ? 'i' : out ? 'o' : 'a';
    if (ref->kind == 'a') ref->offset = vtc_size_in(f, &r->package->zone, r->what, at, &r->names);
    else ref->index = vtc_whole(f, r->what, at, 0, (in ? r->plan->input_count : r->plan->output_count) - 1);
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
    for (const vtc_json *i = part->items; i; i = i->next, ++args) {
        vtc_ref_in(r, i, args);
        vtc_check_ref(f, r->plan, args, NULL, NULL);
    }
    part = part->next;
    s->sizes = vtc_sizes_in(f, r->package, r->what, part, &r->names, VTC_MOST, &s->size_count), part = part->next;
    s->note = vtc_expect(f, r->what, part, VTC_TEXT)->text, part = part->next->next;
    int64_t axes;
    const vtc_size *grid = vtc_sizes_in(f, r->package, r->what, part, &r->names, 3, &axes);
    for (int64_t i = 0; i < 3; ++i) s->grid[i] = i < axes ? grid[i] : (vtc_size){NULL, 0, 1, NULL};
}

static void vtc_step_in(vtc_plan_reader *r, const vtc_json *v, vtc_step *s) {
    vtc_fault *f = r->fault;
    const vtc_json *kind = v->kind == VTC_LIST ? v->items : NULL;
    const char *name = vtc_expect(f, r->what, kind, VTC_TEXT)->text;
    s->note = "";
    if (!strcmp(name, "launch")) {
        vtc_launch_in(r, v, s);
        return;
    }
    if (strcmp(name, "copy")) vtc_wrong(f, r->what, "a launch or a copy", v);
    const vtc_json *part = vtc_record(f, r->what, v, 4, "a copy [copy, source, target, bytes]")->next;
    vtc_ref *ends = vtc_make(f, &r->package->zone, 2, sizeof *ends);
    s->bytes = vtc_size_in(f, &r->package->zone, r->what, part->next->next, &r->names);
    vtc_ref_in(r, part, ends + 1);
    vtc_ref_in(r, part->next, ends);
    for (int i = 0; i < 2; ++i) vtc_check_ref(f, r->plan, ends + i, &s->bytes, NULL);
    s->args = ends, s->arg_count = 2;
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
    vtc_step *s = vtc_make(r->fault, &r->package->zone, (size_t)steps->whole, sizeof *s);
    r->plan->steps = s, r->plan->step_count = steps->whole;
    if (after->whole && after->whole != steps->whole) vtc_wrong(r->fault, r->what, "what each step waits for", after);
    const vtc_json *before = after->items;
    for (const vtc_json *i = steps->items; i; i = i->next, ++s) {
        vtc_step_in(r, i, s);
        vtc_after_in(r, before, s, s - r->plan->steps);
        before = before ? before->next : NULL;
    }
}

/* No step reaches outside its memory, at sizes that every call with these dims has. */
static void vtc_check_places(vtc_fault *f, const vtc_plan *n, const int64_t *values) {
    const vtc_buffer *ends[] = {n->inputs + n->input_count, n->outputs + n->output_count};
    if (vtc_size_at(f, &n->arena, values) > VTC_LARGEST) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected an arena of at most 2^47 bytes, got a larger one", n->name);
    for (int i = 0; i < 2; ++i)
        for (const vtc_buffer *b = i ? n->outputs : n->inputs; b < ends[i]; ++b)
            if (vtc_buffer_bytes(f, b, values) > VTC_LARGEST) vtc_fail(f, VTC_BAD_PACKAGE, "plan %s: expected arrays of at most 2^47 bytes, got a larger one", n->name);
    for (const vtc_step *s = n->steps; s < n->steps + n->step_count; ++s) {
        for (int64_t a = 0; a < s->arg_count; ++a) vtc_check_ref(f, n, s->args + a, s->kernel ? NULL : &s->bytes, values);
        for (int a = 0; s->kernel && a < 3; ++a) vtc_size_at(f, s->grid + a, values);
    }
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
    vtc_plan_reader r = {f, p, m->name, {NULL, 0}, n};
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

/* ---- entries ---- */

static vtc_source vtc_source_in(vtc_fault *f, const vtc_package *p, const char *what, const vtc_json *v, int64_t inputs) {
    const vtc_json *one = v->kind == VTC_OBJECT && v->whole == 1 ? v->items : NULL;
    if (one && !strcmp(one->key, "input")) return (vtc_source){'i', vtc_whole(f, what, one, 0, inputs - 1)};
    if (one && !strcmp(one->key, "output")) return (vtc_source){'o', vtc_whole(f, what, one, 0, VTC_MOST)};
    if (one && !strcmp(one->key, "value")) return (vtc_source){'v', 0};
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
