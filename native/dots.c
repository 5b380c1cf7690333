/* Scores of a few queries against many rows, of several matrices at once: out = q . rows^T, with attention's own kernels.
 * Widths are multiples of 8. */
#include "py_args.h"

#include <string.h>

#include "attend.h"
#include "fewer.h"

#define TASK_ROWS 512 /* rows of one task, a multiple of FW_BLOCK */

/* A matrix, int64: addresses of q (n, width) floats, rows (E, width) floats or halves, out (n, E) floats; E; halves? */
enum { Q, ROWS, OUT, COUNT, HALVES, FIELDS };

typedef struct {
    const int64_t *matrices;
    long count, n, width, dp; /* dp: width rounded up to 16 */
} dots_call;

static long tasks_of(const int64_t *matrix) { return (long)(matrix[COUNT] + TASK_ROWS - 1) / TASK_ROWS; }

static void do_rows(void *ctx, long task, int worker) {
    const dots_call *c = ctx;
    const fw_attend_kernels *k = fw_attend_pick();
    const int64_t *m = c->matrices;
    for (; task >= tasks_of(m); m += FIELDS) task -= tasks_of(m);
    float *q = fw_scratch(worker, 1, (size_t)((c->n + 2 * FW_BLOCK) * c->dp + c->n * FW_BLOCK) * sizeof(float));
    float *rows = q + c->n * c->dp, *turned = rows + FW_BLOCK * c->dp, *s = turned + FW_BLOCK * c->dp;
    k->widen((const void *)(intptr_t)m[Q], 0, c->n, c->width, c->width, c->dp, q);
    long end = (task + 1) * TASK_ROWS < m[COUNT] ? (task + 1) * TASK_ROWS : (long)m[COUNT], size = m[HALVES] ? 2 : 4;
    for (long at = task * TASK_ROWS, n; at < end; at += n) {
        n = end - at < FW_BLOCK ? end - at : FW_BLOCK;
        k->widen((const char *)(intptr_t)m[ROWS] + at * c->width * size, (int)m[HALVES], n, c->width, c->width, c->dp, rows);
        if (c->n <= k->few) k->dots(q, c->n, c->dp, rows, s);
        else {
            k->turn(rows, c->dp, turned);
            k->dots_turned(q, c->n, c->dp, turned, s);
        }
        for (long i = 0; i < c->n; i++)
            memcpy((float *)(intptr_t)m[OUT] + i * m[COUNT] + at, s + i * FW_BLOCK, (size_t)n * sizeof(float));
    }
}

static PyObject *py_dots(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    dots_call c;
    if (!fw_args("dots", args, n, "plll", &c.matrices, &c.count, &c.n, &c.width)) return NULL;
    c.dp = (c.width + 15) & ~15L;
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
