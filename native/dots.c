/* Scores of a few queries against many rows, of several matrices at once: out = q . rows^T. */
#include "py_args.h"

#include <string.h>

#include "dots.h"
#include "fewer.h"

#define TASK_ROWS 512 /* rows of one task, a multiple of FW_BLOCK */

/* A matrix, int64: addresses of q (n, width) floats, rows (E, width) floats or halves, out (n, E) floats; E; halves? */
enum { Q, ROWS, OUT, COUNT, HALVES, FIELDS };

typedef struct {
    const int64_t *matrices;
    long count, n, width;
} dots_call;

fw_dots fw_dots_of(int worker, const float *q, long n, long width) {
    fw_dots d = {.kernels = fw_attend_pick(), .n = n, .width = width, .dp = (width + 15) & ~15L};
    d.q = fw_scratch(worker, 1, (size_t)((n + 2 * FW_BLOCK) * d.dp + n * FW_BLOCK) * sizeof(float));
    d.rows = d.q + n * d.dp, d.turned = d.rows + FW_BLOCK * d.dp, d.s = d.turned + FW_BLOCK * d.dp;
    d.kernels->widen(q, 0, n, width, width, d.dp, d.q);
    return d;
}

void fw_dots_with(const fw_dots *d, const void *rows, int halves, long count) {
    d->kernels->widen(rows, halves, count, d->width, d->width, d->dp, d->rows);
    if (d->n <= d->kernels->few) d->kernels->dots(d->q, d->n, d->dp, d->rows, d->s);
    else {
        d->kernels->turn(d->rows, d->dp, d->turned);
        d->kernels->dots_turned(d->q, d->n, d->dp, d->turned, d->s);
    }
}

static long tasks_of(const int64_t *matrix) { return (long)(matrix[COUNT] + TASK_ROWS - 1) / TASK_ROWS; }

static void do_rows(void *ctx, long task, int worker) {
    const dots_call *c = ctx;
    const int64_t *m = c->matrices;
    for (; task >= tasks_of(m); m += FIELDS) task -= tasks_of(m);
    fw_dots d = fw_dots_of(worker, (const float *)(intptr_t)m[Q], c->n, c->width);
    long end = (task + 1) * TASK_ROWS < m[COUNT] ? (task + 1) * TASK_ROWS : (long)m[COUNT], size = m[HALVES] ? 2 : 4;
    for (long at = task * TASK_ROWS, n; at < end; at += n) {
        n = end - at < FW_BLOCK ? end - at : FW_BLOCK;
        fw_dots_with(&d, (const char *)(intptr_t)m[ROWS] + at * c->width * size, (int)m[HALVES], n);
        for (long i = 0; i < c->n; i++)
            memcpy((float *)(intptr_t)m[OUT] + i * m[COUNT] + at, d.s + i * FW_BLOCK, (size_t)n * sizeof(float));
    }
}

static PyObject *py_dots(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    dots_call c;
    if (!fw_args("dots", args, n, "plll", &c.matrices, &c.count, &c.n, &c.width)) return NULL;
    long tasks = 0;
    for (long i = 0; i < c.count; i++) tasks += tasks_of(c.matrices + i * FIELDS);
    Py_BEGIN_ALLOW_THREADS
    fw_parallel(do_rows, &c, tasks);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef fw_dots_methods[] = {
    {"dots", (PyCFunction)(void (*)(void))py_dots, METH_FASTCALL,
     "dots(matrices, count, n, width): out = q . rows^T of each matrix; rows of the table are [q, rows, out, E, halves]."},
    {NULL, NULL, 0, NULL},
};
