/* See ranking.h. */
#include "ranking.h"

#include <math.h>
#include <string.h>

#include "dots.h"
#include "fewer.h"
#include "py_args.h"

#define TASK_BLOCKS 512 /* a multiple of FW_BLOCK */
#define SLOT_WORTH 4
#define SLOT_ORDER 5

enum { Q, GROUP, DIM, BOUNDS, ROWS, HALVES, SIZE, FIRST, NEWEST, ROOM, TAIL, END, BEFORE, HELD, LOCAL, OUT, HEAD, HEADS, START,
       FIELDS };

typedef struct {
    const int64_t *heads;
    long count;
    const float *q;
    float *worth; /* of every head's middle blocks, one after the other */
} ranking;

static long middle(const int64_t *h) { return (long)(h[NEWEST] - h[FIRST]); }
static int chooses(const int64_t *h) { return h[ROOM] > 0 && h[ROOM] < middle(h); }
static long tasks_of(const int64_t *h) { return chooses(h) ? (middle(h) + TASK_BLOCKS - 1) / TASK_BLOCKS : 0; }

/* What is asked of a head's blocks: each query's positive parts beside its negative ones, or the sum of the queries. */
static fw_dots asked(const int64_t *h, const float *q, int worker) {
    const long g = (long)h[GROUP], d = (long)h[DIM], n = h[BOUNDS] ? g : 1, width = h[BOUNDS] ? 2 * d : d;
    float *ask = fw_scratch(worker, SLOT_ORDER, (size_t)(n * width) * sizeof(float));
    q += h[Q];
    for (long i = 0; i < g; i++)
        for (long c = 0; c < d; c++) {
            float x = q[i * d + c];
            if (!h[BOUNDS]) ask[c] = i ? ask[c] + x : x;
            else ask[i * width + c] = x > 0 ? x : 0, ask[i * width + d + c] = x < 0 ? x : 0;
        }
    return fw_dots_of(worker, ask, n, width);
}

static void do_worth(void *ctx, long task, int worker) {
    const ranking *r = ctx;
    const int64_t *h = r->heads;
    float *worth = r->worth;
    for (; task >= tasks_of(h); h += FIELDS) {
        task -= tasks_of(h);
        worth += chooses(h) ? middle(h) : 0;
    }
    fw_dots d = asked(h, r->q, worker);
    long row = d.width * (h[HALVES] ? 2 : 4);
    const char *rows = (const char *)(intptr_t)h[ROWS] + h[FIRST] * row;
    long end = (task + 1) * TASK_BLOCKS < middle(h) ? (task + 1) * TASK_BLOCKS : middle(h);
    for (long at = task * TASK_BLOCKS, n; at < end; at += n) {
        n = end - at < FW_BLOCK ? end - at : FW_BLOCK;
        fw_dots_with(&d, rows + at * row, (int)h[HALVES], n);
        for (long b = 0; b < n; b++) {
            float best = -INFINITY;
            for (long i = 0; i < d.n; i++) best = d.s[i * FW_BLOCK + b] > best ? d.s[i * FW_BLOCK + b] : best;
            worth[at + b] = best;
        }
    }
}

/* The k-th largest of x, k >= 1; moves them about. */
static float kth_largest(float *x, long n, long k) {
    for (long low = 0, high = n - 1; low < high;) {
        float a = x[low], b = x[low + (high - low) / 2], c = x[high];
        float pivot = a > b ? (b > c ? b : a > c ? c : a) : (a > c ? a : b > c ? c : b);
        long i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j], x[j--] = t;
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else return x[k - 1];
    }
    return x[k - 1];
}

static int64_t *put(int64_t *out, const int64_t *h, long from, long to) {
    const int64_t *before = (const int64_t *)(intptr_t)h[BEFORE];
    for (long p = from; p < to; p++) *out++ = p < h[HELD] ? p : h[HELD] + before[p - h[HELD]];
    return out;
}

static void do_places(void *ctx, long index, int worker) {
    const ranking *r = ctx;
    const int64_t *h = r->heads;
    const float *worth = r->worth;
    for (long i = 0; i < index; i++, h += FIELDS) worth += chooses(h) ? middle(h) : 0;
    long n = middle(h), size = (long)h[SIZE], first = (long)h[FIRST], newest = (long)h[NEWEST];
    int64_t *ends = (int64_t *)(intptr_t)h[OUT], *out = put(ends + h[HEADS] + h[START], h, 0, first * size);
    if (chooses(h)) {
        float *order = memcpy(fw_scratch(worker, SLOT_ORDER, (size_t)n * sizeof(float)), worth, (size_t)n * sizeof(float));
        float least = kth_largest(order, n, (long)h[ROOM]);
        long equals = (long)h[ROOM];
        for (long b = 0; b < n; b++) equals -= worth[b] > least;
        for (long b = 0; b < n; b++)
            if (worth[b] > least || (worth[b] == least && equals-- > 0))
                out = put(out, h, (first + b) * size, (first + b + 1) * size);
    } else if (h[ROOM] > 0) out = put(out, h, first * size, newest * size);
    out = put(out, h, (long)h[TAIL], (long)h[END]);
    *out++ = h[HELD] + h[LOCAL];
    ends[h[HEAD]] = out - (ends + h[HEADS]);
}

void fw_rank(const int64_t *heads, long count, const float *q) {
    ranking r = {heads, count, q, NULL};
    long tasks = 0, blocks = 0;
    for (const int64_t *h = heads; h < heads + count * FIELDS; h += FIELDS) {
        tasks += tasks_of(h);
        blocks += chooses(h) ? middle(h) : 0;
    }
    fw_begin();
    r.worth = fw_scratch(FW_SHARED, SLOT_WORTH, (size_t)blocks * sizeof(float));
    fw_parallel(do_worth, &r, tasks);
    fw_parallel(do_places, &r, count);
    fw_end();
}

const int64_t *fw_rank_at(const int64_t *heads, long n) { return heads + n * FIELDS; }

static PyObject *py_rank(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    const int64_t *heads;
    long count;
    const float *q;
    if (!fw_args("rank", args, n, "plp", &heads, &count, &q)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_rank(heads, count, q);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef fw_ranking_methods[] = {
    {"rank", (PyCFunction)(void (*)(void))py_rank, METH_FASTCALL, "rank(heads, count, q): see ranking.h."},
    {NULL, NULL, 0, NULL},
};
