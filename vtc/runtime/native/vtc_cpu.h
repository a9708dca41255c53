/* Part of vtc_runtime.c: what this CPU can run, loading libraries from memory, threads. */
#ifndef VTC_CPU_H
#define VTC_CPU_H

/* ---- levels ---- */

#if defined(__x86_64__)
static uint64_t vtc_enabled(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* The level of the x86-64 psABI that processor and system have. */
static int vtc_level(void) {
    unsigned a, b, c, d, b7, c7, d7, c81;
    const unsigned fma = 1u << 12, movbe = 1u << 22, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8, lzcnt = 1u << 5;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F, DQ, CD, BW, VL */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !__get_cpuid(0x80000001, &a, &b, &c81, &d)) return 2;
    const unsigned here = fma | movbe | osxsave | avx | f16c, more = bmi1 | avx2 | bmi2;
    if ((c & here) != here || (b7 & more) != more || !(c81 & lzcnt) || (vtc_enabled() & 6) != 6) return 2;
    return (b7 & avx512) == avx512 && (vtc_enabled() & 0xe6) == 0xe6 ? 4 : 3;
}
#endif

/* Of the CPU's targets the k-th best; null behind the last. */
static const char *vtc_cpu_target(int k) {
#if defined(__x86_64__)
    static const char *const targets[] = {"cpu-x86-64-v4", "cpu-x86-64-v3"};
    const int skipped = 4 - vtc_level();
    return skipped + k < 2 ? targets[skipped + k] : NULL;
#elif defined(__aarch64__)
    return k ? NULL : "cpu-aarch64";
#else
    return (void)k, NULL;
#endif
}

/* ---- libraries ---- */

/* Its file stays open: the loader knows a library by its name, which has the number of the file. */
typedef struct vtc_library {
    struct vtc_library *next;
    const vtc_member *member;
    void *handle;
    int file;
} vtc_library;

static int vtc_write_all(int file, const unsigned char *data, uint64_t size) {
    while (size) {
        const ssize_t n = write(file, data, size < (1 << 30) ? size : (1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        data += n, size -= (uint64_t)n;
    }
    return 1;
}

/* A library from memory, by way of a file that has no name. */
static void *vtc_load_hidden(vtc_library *l) {
    char path[64];
#ifdef __linux__
    l->file = (int)syscall(SYS_memfd_create, "vtc", 1u /* MFD_CLOEXEC */);
#endif
    if (l->file < 0 || !vtc_write_all(l->file, l->member->data, l->member->size)) return NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", l->file);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* The same by way of a temporary file, which is gone at once. */
static void *vtc_load_file(vtc_library *l) {
    char path[512];
    const char *folder = getenv("TMPDIR");
    if (l->file >= 0) close(l->file);
    const int n = snprintf(path, sizeof path, "%s/vtc-XXXXXX", folder && *folder ? folder : "/tmp");
    l->file = n < (int)sizeof path ? mkstemp(path) : -1;
    if (l->file < 0) return NULL;
    void *handle = vtc_write_all(l->file, l->member->data, l->member->size) ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    unlink(path);
    return handle;
}

static void *vtc_load(vtc_fault *f, vtc_package *p, const vtc_member *m) {
    for (vtc_library *l = p->libraries; l; l = l->next)
        if (l->member == m) return l->handle;
    vtc_library *l = vtc_make(f, &p->zone, 1, sizeof *l);
    *l = (vtc_library){p->libraries, m, NULL, -1};
    p->libraries = l;
    l->handle = vtc_load_hidden(l);
    if (!l->handle) l->handle = vtc_load_file(l);
    if (!l->handle) {
        const char *why = dlerror();
        vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a library that loads, got %s", m->name, why ? why : strerror(errno));
    }
    return l->handle;
}

static void vtc_unload_all(vtc_package *p) {
    for (vtc_library *l = p->libraries; l; l = l->next) {
        if (l->handle) dlclose(l->handle);
        if (l->file >= 0) close(l->file);
    }
}

static void vtc_link_cpu(vtc_fault *f, vtc_package *p, vtc_plan *n, const vtc_json *plan) {
    const vtc_member *m = vtc_member_in(f, p, plan, "library");
    void *entry = dlsym(vtc_load(f, p, m), "vtc_run");
    if (!entry) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a library with vtc_run, got one without", m->name);
    memcpy(&n->host, &entry, sizeof entry);
}

/* ---- threads ---- */

/* The parts of one kernel at a time, on threads that stay until the package is closed. A region is published as a ticket: the number
 * of the region above, the parts nobody has taken below. Whoever lowers it by one has that part. The caller takes parts like
 * any thread, so it waits only for parts that run. A call while the crew is busy runs its kernel alone, as does one where no
 * thread can be started, or in a child of the process that started them. */
typedef struct vtc_crew {
    vtc_pool pool;
    vtc_kernel *kernel;
    void *const *p;
    const int64_t *n;
    int64_t parts, started, unfinished;
    uint64_t ticket;
    int failed, busy, sleepers, waiting, stopping;
    pid_t process;
    pthread_mutex_t lock;
    pthread_cond_t published, finished;
    struct vtc_worker *workers;
} vtc_crew;

typedef struct vtc_worker {
    vtc_crew *crew;
    pthread_t thread;
} vtc_worker;

enum { VTC_SPINS = 4000, VTC_PART_BITS = 16, VTC_MOST_THREADS = 1024 };
static const uint64_t VTC_PARTS = (1u << VTC_PART_BITS) - 1;
#define VTC_GET(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define VTC_SET(x, value) __atomic_store_n(&(x), value, __ATOMIC_SEQ_CST)

static void vtc_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Take a part and run it; 0 if there is none. */
static int vtc_help(vtc_crew *c) {
    uint64_t seen = VTC_GET(c->ticket);
    do {
        if (!(seen & VTC_PARTS)) return 0;
    } while (!__atomic_compare_exchange_n(&c->ticket, &seen, seen - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    /* The region stays as it is until this part has finished. */
    const int result = c->kernel(c->p, c->n, (int64_t)(seen & VTC_PARTS) - 1, c->parts);
    if (result) __atomic_or_fetch(&c->failed, result, __ATOMIC_SEQ_CST);
    if (!__atomic_sub_fetch(&c->unfinished, 1, __ATOMIC_SEQ_CST) && VTC_GET(c->waiting)) {
        pthread_mutex_lock(&c->lock);
        pthread_cond_signal(&c->finished);
        pthread_mutex_unlock(&c->lock);
    }
    return 1;
}

static int vtc_wanted(vtc_crew *c) { return (VTC_GET(c->ticket) & VTC_PARTS) || VTC_GET(c->stopping); }

static void *vtc_work(void *argument) {
    vtc_crew *c = ((vtc_worker *)argument)->crew;
    while (!VTC_GET(c->stopping)) {
        for (int spins = 0; spins < VTC_SPINS && !VTC_GET(c->stopping); ++spins, vtc_relax())
            if (vtc_help(c)) spins = 0;
        pthread_mutex_lock(&c->lock);
        __atomic_add_fetch(&c->sleepers, 1, __ATOMIC_SEQ_CST);
        while (!vtc_wanted(c)) pthread_cond_wait(&c->published, &c->lock);
        __atomic_sub_fetch(&c->sleepers, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

static void vtc_wake(vtc_crew *c) {
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->published);
    pthread_mutex_unlock(&c->lock);
}

/* Start the threads that are missing; they take no signals. */
static void vtc_start(vtc_crew *c) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (c->started + 1 < c->pool.threads) {
        vtc_worker *w = c->workers + c->started;
        w->crew = c;
        if (pthread_create(&w->thread, NULL, vtc_work, w)) break;
        ++c->started;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int vtc_run_parts(vtc_pool *pool, vtc_kernel *kernel, void *const *p, const int64_t *n, int64_t parts) {
    vtc_crew *c = (vtc_crew *)pool;
    if (parts > (int64_t)VTC_PARTS) parts = (int64_t)VTC_PARTS;
    if (c->process != getpid() || __atomic_exchange_n(&c->busy, 1, __ATOMIC_ACQUIRE)) return kernel(p, n, 0, 1);
    if (c->started + 1 < pool->threads) vtc_start(c);
    c->kernel = kernel, c->p = p, c->n = n, c->parts = parts;
    VTC_SET(c->failed, 0);
    VTC_SET(c->unfinished, parts);
    VTC_SET(c->ticket, ((VTC_GET(c->ticket) >> VTC_PART_BITS) + 1) << VTC_PART_BITS | (uint64_t)parts);
    if (VTC_GET(c->sleepers)) vtc_wake(c);
    while (vtc_help(c));
    for (int spins = 0; spins < VTC_SPINS && VTC_GET(c->unfinished); ++spins) vtc_relax();
    if (VTC_GET(c->unfinished)) {
        pthread_mutex_lock(&c->lock);
        VTC_SET(c->waiting, 1);
        while (VTC_GET(c->unfinished)) pthread_cond_wait(&c->finished, &c->lock);
        VTC_SET(c->waiting, 0);
        pthread_mutex_unlock(&c->lock);
    }
    const int result = VTC_GET(c->failed);
    __atomic_store_n(&c->busy, 0, __ATOMIC_RELEASE);
    return result;
}

static int64_t vtc_cores(void) {
#ifdef __linux__
    cpu_set_t mine;
    if (!sched_getaffinity(0, sizeof mine, &mine)) return CPU_COUNT(&mine);
#endif
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? n : 1;
}

static vtc_crew *vtc_make_crew(vtc_fault *f, vtc_package *p, int64_t threads) {
    if (threads < 0 || threads > VTC_MOST_THREADS) vtc_fail(f, VTC_BAD_ARGUMENT, "threads: expected 0 to %d, got %" PRId64, VTC_MOST_THREADS, threads);
    if (!threads) threads = vtc_cores();
    vtc_crew *c = vtc_make(f, &p->zone, 1, sizeof *c);
    c->workers = vtc_make(f, &p->zone, (size_t)threads, sizeof *c->workers);
    c->pool = (vtc_pool){vtc_run_parts, threads};
    c->process = getpid();
    if (pthread_mutex_init(&c->lock, NULL)) vtc_fail(f, VTC_OUT_OF_MEMORY, "expected a lock, got none");
    if (pthread_cond_init(&c->published, NULL) || pthread_cond_init(&c->finished, NULL)) vtc_fail(f, VTC_OUT_OF_MEMORY, "expected a condition, got none");
    return c;
}

static void vtc_end_crew(vtc_crew *c) {
    if (c->process != getpid()) return;
    VTC_SET(c->stopping, 1);
    vtc_wake(c);
    for (int64_t i = 0; i < c->started; ++i) pthread_join(c->workers[i].thread, NULL);
    pthread_cond_destroy(&c->published);
    pthread_cond_destroy(&c->finished);
    pthread_mutex_destroy(&c->lock);
}

#endif
