/* A small thread pool: tiles handed out by one atomic counter, workers that spin ~50 us after work and then sleep.
 *
 * `left` counts the tiles of the current job not yet taken; a worker takes one by decrementing it. A job's fields may
 * be read only after taking one of its tiles: the job cannot end before that tile is done. The caller works too and
 * waits for the count of finished tiles, never for a worker to wake up: one that sleeps on delays nobody.
 * One recursive lock serialises jobs, so several Python threads (or engines) may call at once.
 * A thread that has gone alone takes no part in that: it runs its jobs itself, beside all others, with scratch of its own.
 * fork: the child starts with no workers and makes its own at the first job.
 * Not here: pinning, priorities, nested jobs, work stealing.
 */
#include "fewer.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NS 50000

static pthread_mutex_t op_lock;     /* one operation at a time; recursive */
static pthread_mutex_t sleep_lock;  /* guards the condition below */
static pthread_cond_t wake;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static fw_task job_fn;
static void *job_ctx;
static long job_tiles;
static atomic_long left;
static atomic_long done;
static atomic_int sleepers;
static atomic_int stopping;

static int wanted = 1, running = 0; /* threads asked for; workers alive (the caller is one thread, not counted) */
static pthread_t workers[FW_MAX_THREADS];
typedef struct { void *raw, *data; size_t bytes; } memory;
static memory scratch[FW_MAX_THREADS + 1][16];

typedef struct { memory own[16], shared[16]; } lane;
static _Thread_local lane *alone; /* this thread's scratch while it works alone, else NULL */
static pthread_key_t lanes;       /* the same memory, kept until the thread ends */

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int take(long *tile) {
    long n = atomic_load_explicit(&left, memory_order_acquire);
    while (n > 0)
        if (atomic_compare_exchange_weak_explicit(&left, &n, n - 1, memory_order_acquire, memory_order_acquire)) {
            *tile = job_tiles - n;
            return 1;
        }
    return 0;
}

static void work(int worker) {
    long tile;
    while (take(&tile)) {
        job_fn(job_ctx, tile, worker);
        atomic_fetch_add_explicit(&done, 1, memory_order_release);
    }
}

static void *worker_main(void *arg) {
    int worker = (int)(intptr_t)arg;
    for (;;) {
        int64_t until = now_ns() + SPIN_NS;
        int idle = 0;
        while (atomic_load_explicit(&left, memory_order_relaxed) == 0 && !atomic_load(&stopping)) {
            relax();
            if (++idle % 64 == 0 && now_ns() > until) {
                pthread_mutex_lock(&sleep_lock);
                atomic_fetch_add(&sleepers, 1);
                while (atomic_load(&left) == 0 && !atomic_load(&stopping)) pthread_cond_wait(&wake, &sleep_lock);
                atomic_fetch_sub(&sleepers, 1);
                pthread_mutex_unlock(&sleep_lock);
            }
        }
        if (atomic_load(&stopping)) return NULL;
        work(worker);
    }
}

static void make_locks(void) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&op_lock, &a);
    pthread_mutexattr_destroy(&a);
    pthread_mutex_init(&sleep_lock, NULL);
    pthread_cond_init(&wake, NULL);
}

static void before_fork(void) { pthread_mutex_lock(&op_lock); }
static void after_fork_parent(void) { pthread_mutex_unlock(&op_lock); }
static void after_fork_child(void) {
    make_locks();
    running = 0;
    atomic_store(&left, 0);
    atomic_store(&sleepers, 0);
    atomic_store(&stopping, 0);
}

static void free_lane(void *p) {
    lane *l = p;
    for (int i = 0; i < 16; i++) free(l->own[i].raw), free(l->shared[i].raw);
    free(l);
}

static void init(void) {
    make_locks();
    pthread_key_create(&lanes, free_lane);
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void fw_begin(void) {
    if (alone != NULL) return;
    pthread_once(&once, init);
    pthread_mutex_lock(&op_lock);
}

void fw_end(void) {
    if (alone == NULL) pthread_mutex_unlock(&op_lock);
}

int fw_alone(int on) {
    pthread_once(&once, init);
    lane *l = pthread_getspecific(lanes);
    if (on && l == NULL) {
        l = calloc(1, sizeof *l);
        if (l == NULL || pthread_setspecific(lanes, l) != 0) {
            free(l);
            return -1;
        }
    }
    alone = on ? l : NULL;
    return 0;
}

static void wake_all(void) {
    if (atomic_load(&sleepers) == 0) return;
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleep_lock);
}

static void stop_workers(void) {
    atomic_store(&stopping, 1);
    wake_all();
    for (int i = 0; i < running; i++) pthread_join(workers[i], NULL);
    atomic_store(&stopping, 0);
    running = 0;
}

static void start_workers(void) {
    while (running < wanted - 1) {
        if (pthread_create(&workers[running], NULL, worker_main, (void *)(intptr_t)(running + 1)) != 0) {
            wanted = running + 1; /* no more threads to be had: go on with those there are */
            return;
        }
        running++;
    }
}

int fw_threads(void) { return alone != NULL ? 1 : wanted; }

void fw_set_threads(int n) {
    n = n < 1 ? 1 : n > FW_MAX_THREADS ? FW_MAX_THREADS : n;
    fw_begin();
    if (n != wanted) stop_workers();
    wanted = n;
    fw_end();
}

void fw_parallel(fw_task fn, void *ctx, long n_tiles) {
    if (n_tiles <= 0) return;
    if (alone != NULL) {
        for (long i = 0; i < n_tiles; i++) fn(ctx, i, 0);
        return;
    }
    fw_begin();
    if (running < wanted - 1) start_workers();
    if (running == 0 || n_tiles == 1) {
        for (long i = 0; i < n_tiles; i++) fn(ctx, i, 0);
        fw_end();
        return;
    }
    job_fn = fn;
    job_ctx = ctx;
    job_tiles = n_tiles;
    atomic_store(&done, 0);
    atomic_store(&left, n_tiles);
    wake_all();
    work(0);
    for (int spins = 0; atomic_load_explicit(&done, memory_order_acquire) != n_tiles; spins++) {
        relax();
        if (spins > 2000) sched_yield(); /* more threads than free cores: let the worker that owns the last tile run */
    }
    fw_end();
}

void *fw_scratch(int worker, int slot, size_t bytes) {
    memory *m = alone == NULL ? &scratch[worker][slot] : worker == FW_SHARED ? &alone->shared[slot] : &alone->own[slot];
    if (m->bytes < bytes) {
        free(m->raw);
        bytes += bytes / 4;
        void *raw = malloc(bytes + 64);
        if (raw == NULL) {
            fprintf(stderr, "fewer: out of memory (%zu bytes of scratch)\n", bytes);
            abort();
        }
        m->raw = raw;
        m->data = (void *)(((uintptr_t)raw + 63) & ~(uintptr_t)63);
        m->bytes = bytes;
    }
    return m->data;
}
