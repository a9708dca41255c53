/* Runs packages of vtc; see vtc_runtime.h. The parts are in files of their own, but are compiled here: only what the header
 * declares is visible outside.
 *
 * vtc_read.h      failures, memory, JSON, SHA-256
 * vtc_size.h      sizes such as `4*B + 63`
 * vtc_package.h   the file, its members, weights
 * vtc_plan.h      plans, and the steps that they are of
 * vtc_entry.h     entries, and their plans
 * vtc_cpu.h       libraries and threads
 * vtc_call.h      a call: what it asks for, and works with
 * vtc_run.h       what it takes and gives, on any device
 * vtc_driver.h    the NVIDIA driver
 * vtc_control.h   kernels that steer loops and branches of CUDA graphs
 * vtc_kernels.h   the kernels of plans
 * vtc_layout.h    what becomes of the steps of a plan at given sizes
 * vtc_graph.h     plans as CUDA graphs
 * vtc_walk.h      loops and branches that the host walks through
 * vtc_cuda.h      a call on a GPU
 * here            the functions of vtc_runtime.h
 *
 * A package is immutable once it is open, but for its state, the instances that calls lease from its plans, and the claims of
 * calls on what they write; its lock guards the latter two. */
#define _GNU_SOURCE
#include "vtc_runtime.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "vtc_read.h"
#include "vtc_size.h"
#include "vtc_package.h"
#include "vtc_plan.h"
#include "vtc_entry.h"
#include "vtc_cpu.h"
#include "vtc_call.h"
#include "vtc_run.h"
#include "vtc_driver.h"
#include "vtc_control.h"
#include "vtc_kernels.h"
#include "vtc_layout.h"
#include "vtc_graph.h"
#include "vtc_walk.h"
#include "vtc_cuda.h"

/* ---- failures ---- */

/* Keep the words of a failure for this thread. */
static vtc_status vtc_keep(vtc_package *p, const vtc_fault *f) {
    if (!f->status || !p->has_key) return f->status;
    vtc_failure *mine = pthread_getspecific(p->key);
    if (!mine && (mine = malloc(sizeof *mine))) {
        pthread_mutex_lock(&p->lock);
        mine->next = p->failures, p->failures = mine;
        pthread_mutex_unlock(&p->lock);
        pthread_setspecific(p->key, mine);
    }
    if (mine) memcpy(mine->words, f->words, sizeof mine->words);
    return f->status;
}

const char *vtc_error(vtc_package *p) {
    if (!p || !p->has_key) return "expected memory for a package, got none";
    const vtc_failure *mine = pthread_getspecific(p->key);
    return mine ? mine->words : "";
}

/* Run a function of the library on an open package. */
static vtc_status vtc_enter(vtc_package *p, void (*work)(vtc_fault *, void *), void *what) {
    vtc_fault f;
    if (!p) return VTC_BAD_ARGUMENT;
    if (p->open) return vtc_guarded(&f, work, what), vtc_keep(p, &f);
    f.status = VTC_BAD_ARGUMENT;
    if (p->has_key && !pthread_getspecific(p->key)) {
        snprintf(f.words, sizeof f.words, "expected an open package, got one that did not open");
        vtc_keep(p, &f);
    }
    return f.status;
}

/* ---- opening ---- */

static int vtc_has_target(const vtc_json *targets, const char *name) {
    for (const vtc_json *i = targets->items; i; i = i->next)
        if (i->kind == VTC_TEXT && !strcmp(i->text, name)) return 1;
    return 0;
}

static _Noreturn void vtc_no_target(vtc_fault *f, const vtc_json *targets, const char *here) {
    vtc_words w = {""};
    for (const vtc_json *i = targets->items; i; i = i->next) vtc_add(&w, "%s%s", *w.text ? ", " : "", i->kind == VTC_TEXT ? i->text : "?");
    vtc_fail(f, VTC_NO_TARGET, "expected a target that runs here (%.200s), got a package for %s; export it again with targets=[...] to add one", here, *w.text ? w.text : "none");
}

/* The best of the CPU's targets, or the one that was asked for; `here` gets what could run. */
static const char *vtc_choose_cpu(const vtc_json *targets, const char *asked, vtc_words *here) {
    const char *k, *found = NULL;
    for (int i = 0; (k = vtc_cpu_target(i)); ++i) {
        if (asked && strcmp(asked, k)) continue;
        vtc_add(here, "%s%s", *here->text ? ", " : "", k);
        if (!found && vtc_has_target(targets, k)) found = k;
    }
    return found;
}

/* The target to run, and the GPU if it is one. */
static void vtc_choose(vtc_fault *f, vtc_package *p) {
    const vtc_json *targets = vtc_get(f, "manifest", p->manifest, "targets", VTC_LIST);
    const char *asked = p->options.target;
    vtc_words here = {""};
    const int gpu = asked && (!strcmp(asked, "cuda") || !strncmp(asked, "sm_", 3)), cpu = asked && !strcmp(asked, "cpu");
    if (!gpu) p->target = vtc_choose_cpu(targets, cpu ? NULL : asked, &here);
    if (!p->target && (!asked || gpu)) p->target = vtc_open_gpu(f, p, targets, gpu && strcmp(asked, "cuda") ? asked : NULL, gpu, &here);
    if (p->target) return;
    if (asked && vtc_has_target(targets, asked)) vtc_fail(f, VTC_NO_TARGET, "expected a target that runs here, got %s", asked);
    vtc_no_target(f, targets, *here.text ? here.text : asked ? asked : "none");
}

/* Memory for the state on the CPU: private pages of the file, or a copy. */
static void vtc_place_weights(vtc_fault *f, vtc_package *p) {
    int64_t bytes = 0, at = 0;
    for (vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) {
        w->tensor.data = (void *)(uintptr_t)w->stored;
        if (w->state) bytes += (w->tensor.bytes + VTC_ALIGNMENT - 1) / VTC_ALIGNMENT * VTC_ALIGNMENT;
    }
    if (!bytes) return;
    unsigned char *copy = NULL;
    const vtc_member *m = vtc_member_of(p, VTC_WEIGHTS);
    if (p->file >= 0 && m && !p->options.weights) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE), start = (size_t)(m->data - p->bytes) / page * page;
        vtc_map *map = vtc_make(f, &p->zone, 1, sizeof *map);
        void *private = mmap(NULL, p->size - start, PROT_READ | PROT_WRITE, MAP_PRIVATE, p->file, (off_t)start);
        if (private == MAP_FAILED) vtc_fail(f, VTC_OUT_OF_MEMORY, "state: expected to map %zu bytes, got %s", p->size - start, strerror(errno));
        *map = (vtc_map){private, p->size - start, NULL};
        p->state = map;
        copy = private;
        for (vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) {
            const uint64_t place = (uint64_t)(w->stored - p->bytes);
            if (w->state && w->stored >= p->bytes && place < p->size) w->tensor.data = copy + (place - start);
        }
        return;
    }
    copy = vtc_make(f, &p->zone, (size_t)bytes + VTC_ALIGNMENT, 1);
    copy += (VTC_ALIGNMENT - (uintptr_t)copy % VTC_ALIGNMENT) % VTC_ALIGNMENT;
    for (vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w) {
        if (!w->state) continue;
        w->tensor.data = memcpy(copy + at, w->stored, (size_t)w->tensor.bytes);
        at += (w->tensor.bytes + VTC_ALIGNMENT - 1) / VTC_ALIGNMENT * VTC_ALIGNMENT;
    }
}

static void vtc_describe_it(vtc_fault *f, vtc_package *p) {
    static const char form[] = "{\"name\": %.*s, \"target\": \"%s\", \"device\": \"%s\", \"waits\": \"%s\", \"targets\": %.*s, \"entries\": %.*s, \"weights\": %.*s}";
    static const char *const keys[] = {"name", "targets", "entries", "weights"};
    const vtc_json *v[4];
    size_t size = sizeof form + 512;
    for (int i = 0; i < 4; ++i) {
        v[i] = vtc_find(p->manifest, keys[i]);
        if (!v[i]) vtc_fail(f, VTC_BAD_PACKAGE, "manifest: expected \"%s\", got nothing", keys[i]);
        size += (size_t)(v[i]->to - v[i]->from);
    }
#define VTC_SLICE(i) (int)(v[i]->to - v[i]->from), v[i]->from
    char *text = vtc_make(f, &p->zone, size, 1), device[32] = "cpu";
    if (p->cuda) snprintf(device, sizeof device, "cuda:%d", (int)p->options.device);
    snprintf(text, size, form, VTC_SLICE(0), p->target, device, p->cuda ? p->cuda->why : "", VTC_SLICE(1), VTC_SLICE(2), VTC_SLICE(3));
#undef VTC_SLICE
    p->description = text;
}

static void vtc_open_it(vtc_fault *f, void *what) {
    vtc_package *p = what;
    struct stat about;
    if (!p->bytes) {
        if (stat(p->path, &about)) vtc_fail(f, VTC_BAD_PACKAGE, "%s: expected a package, got %s", p->path, strerror(errno));
        if (S_ISDIR(about.st_mode)) vtc_read_folder(f, p);
        else p->bytes = vtc_map_file(f, p, p->path, &p->size, &p->file);
    }
    if (p->bytes) vtc_read_zip(f, p);
    const int64_t format = vtc_get(f, "manifest", p->manifest, "format", VTC_WHOLE)->whole;
    if (format != VTC_FORMAT)
        vtc_fail(f, VTC_BAD_PACKAGE, "manifest: expected format %d, got %" PRId64 "%s", VTC_FORMAT, format, format > VTC_FORMAT ? ": a newer vtc wrote this package" : "");
    vtc_check_members(f, p);
    vtc_find_weights(f, p);
    vtc_choose(f, p);
    if (p->cuda) {
        vtc_upload(f, p);
        vtc_read_entries(f, p, vtc_link_cuda);
    } else {
        vtc_place_weights(f, p);
        vtc_read_entries(f, p, vtc_link_cpu);
        if (!p->options.pool) p->crew = vtc_make_crew(f, p, p->options.threads);
    }
    vtc_describe_it(f, p);
    p->open = 1;
}

static vtc_status vtc_open_both(const char *path, const void *bytes, size_t size, const vtc_options *options, vtc_package **out) {
    vtc_fault f;
    vtc_package *p = *out = calloc(1, sizeof *p);
    if (!p) return VTC_OUT_OF_MEMORY;
    if (options) p->options = *options;
    p->path = path, p->bytes = bytes, p->size = size, p->file = -1;
    p->has_lock = !pthread_mutex_init(&p->lock, NULL);
    p->has_changed = p->has_lock && !pthread_cond_init(&p->changed, NULL);
    p->has_key = p->has_changed && !pthread_key_create(&p->key, NULL);
    if (!p->has_key) {
        vtc_close(p);
        *out = NULL;
        return VTC_OUT_OF_MEMORY;
    }
    vtc_guarded(&f, vtc_open_it, p);
    return vtc_keep(p, &f);
}

vtc_status vtc_open(const char *path, const vtc_options *options, vtc_package **out) {
    return vtc_open_both(path ? path : "", NULL, 0, options, out);
}

vtc_status vtc_open_memory(const void *bytes, size_t size, const vtc_options *options, vtc_package **out) {
    return vtc_open_both("package", bytes ? bytes : "", size, options, out);
}

void vtc_close(vtc_package *p) {
    if (!p) return;
    if (p->crew) vtc_end_crew(p->crew);
    if (p->cuda) vtc_wait_for_gpu(p);
    for (vtc_entry *e = p->entries; e && e < p->entries + p->entry_count; ++e)
        for (int64_t v = 0; v < e->variant_count; ++v) vtc_free_instances(p, e->variants[v].plan);
    if (p->cuda) vtc_close_gpu(p);
    vtc_unload_all(p);
    if (p->state) munmap(((vtc_map *)p->state)->at, ((vtc_map *)p->state)->size);
    for (vtc_map *m = p->maps, *next; m; m = next) {
        next = m->next;
        munmap(m->at, m->size);
        free(m);
    }
    if (p->file >= 0) close(p->file);
    for (vtc_failure *i = p->failures, *next; i; i = next) {
        next = i->next;
        free(i);
    }
    if (p->has_key) pthread_key_delete(p->key);
    if (p->has_changed) pthread_cond_destroy(&p->changed);
    if (p->has_lock) pthread_mutex_destroy(&p->lock);
    vtc_free_zone(&p->zone);
    free(p);
}

/* ---- the rest of the interface ---- */

const char *vtc_describe(vtc_package *p) { return p && p->open ? p->description : NULL; }

typedef struct vtc_question {
    vtc_package *package;
    const char *name;
    int32_t *inputs, *outputs;
    vtc_tensor *out;
    void *stream;
} vtc_question;

static void vtc_count_it(vtc_fault *f, void *what) {
    const vtc_question *q = what;
    const vtc_entry *e = vtc_entry_of(f, q->package, q->name);
    *q->inputs = (int32_t)e->call_inputs;
    *q->outputs = (int32_t)e->result_count;
}

vtc_status vtc_count(vtc_package *p, const char *entry, int32_t *inputs, int32_t *outputs) {
    vtc_question q = {.package = p, .name = entry, .inputs = inputs, .outputs = outputs};
    return vtc_enter(p, vtc_count_it, &q);
}

static void vtc_state_it(vtc_fault *f, void *what) {
    const vtc_question *q = what;
    const vtc_weight *w = q->name ? vtc_weight_of(q->package, q->name) : NULL;
    if (!w) vtc_fail(f, VTC_BAD_ARGUMENT, "state: expected a tensor of the package, got \"%.100s\"", q->name ? q->name : "");
    *q->out = w->tensor;
}

vtc_status vtc_state(vtc_package *p, const char *name, vtc_tensor *out) {
    vtc_question q = {.package = p, .name = name, .out = out};
    return vtc_enter(p, vtc_state_it, &q);
}

static void vtc_reset_it(vtc_fault *f, void *what) {
    vtc_package *p = ((const vtc_question *)what)->package;
    if (p->cuda) {
        vtc_reset_gpu(f, p);
        return;
    }
    for (const vtc_weight *w = p->weights; w < p->weights + p->weight_count; ++w)
        if (w->state) memcpy(w->tensor.data, w->stored, (size_t)w->tensor.bytes);
}

vtc_status vtc_reset(vtc_package *p) {
    vtc_question q = {.package = p};
    return vtc_enter(p, vtc_reset_it, &q);
}

static void vtc_synchronize_it(vtc_fault *f, void *what) {
    const vtc_question *q = what;
    if (q->package->cuda) vtc_wait(f, q->package, q->stream);
}

vtc_status vtc_synchronize(vtc_package *p, void *stream) {
    vtc_question q = {.package = p, .stream = stream};
    return vtc_enter(p, vtc_synchronize_it, &q);
}

vtc_status vtc_run(vtc_package *p, const char *entry, const vtc_tensor *inputs, int32_t input_count, vtc_tensor *outputs, int32_t output_count, void *stream) {
    vtc_call c;
    memset(&c, 0, sizeof c);
    c.package = p, c.name = entry, c.inputs = inputs, c.input_count = input_count, c.outputs = outputs, c.output_count = output_count;
    c.stream = p && p->cuda ? stream : NULL;
    const vtc_status status = vtc_enter(p, vtc_run_it, &c);
    vtc_finish(&c);
    return status;
}

void vtc_release(vtc_package *p, vtc_tensor *output) {
    if (p && output && output->owned && output->data) {
        if (output->device == VTC_CPU) vtc_free_host(p, output->data, (size_t)output->bytes);
        else vtc_free_device(p, output->data, (size_t)output->bytes, NULL);
    }
    if (output) memset(output, 0, sizeof *output);
}
