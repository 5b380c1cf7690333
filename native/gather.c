/* Entries picked from a layer's segments, copied side by side. Per kv-head the places ascend, so one walk finds them all. */
#include "py_args.h"

#include <stdint.h>
#include <string.h>

#include "attend.h"

typedef struct {
    const int64_t *table; /* nseg rows of attention's segment table */
    long nseg, heads, row;  /* row: bytes of one key */
    const int64_t *idx, *first; /* kv-head h wants places idx[first[h]] .. idx[first[h + 1] - 1] */
    char *k, *v;
    int32_t *pos;
} gather_call;

/* 0, or -1 if a place is outside the head's entries or the places do not ascend. */
static int gather_head(const gather_call *c, long h) {
    long width = FW_SEG_HEADS + 2 * c->heads, at = 0, before = 0;
    int64_t last = -1;
    for (int64_t i = c->first[h]; i < c->first[h + 1]; last = c->idx[i++]) {
        if (c->idx[i] <= last) return -1;
        while (at < c->nseg && c->idx[i] - before >= c->table[at * width + FW_SEG_HEADS + c->heads + h])
            before += c->table[at++ * width + FW_SEG_HEADS + c->heads + h];
        if (at == c->nseg) return -1;
        const int64_t *seg = c->table + at * width;
        int64_t entry = seg[FW_SEG_HEADS + h] + c->idx[i] - before;
        memcpy(c->k + i * c->row, (const char *)(intptr_t)seg[FW_SEG_K] + entry * c->row, (size_t)c->row);
        memcpy(c->v + i * c->row, (const char *)(intptr_t)seg[FW_SEG_V] + entry * c->row, (size_t)c->row);
        c->pos[i] = ((const int32_t *)(intptr_t)seg[FW_SEG_POS])[entry];
    }
    return 0;
}

static PyObject *py_gather(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    gather_call c;
    int bad = 0;
    if (!fw_args("gather", args, n, "plllppppp", &c.table, &c.nseg, &c.heads, &c.row, &c.idx, &c.first, &c.k, &c.v,
                 &c.pos))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (long h = 0; h < c.heads && !bad; h++) bad = gather_head(&c, h);
    Py_END_ALLOW_THREADS
    if (bad) return PyErr_Format(PyExc_IndexError, "places must ascend and lie among the entries of their kv-head");
    Py_RETURN_NONE;
}

PyMethodDef fw_gather_methods[] = {
    {"gather", (PyCFunction)(void (*)(void))py_gather, METH_FASTCALL,
     "gather(table, nseg, n_kv_heads, row_bytes, idx, first, k, v, pos): picked entries of a layer, side by side."},
    {NULL, NULL, 0, NULL},
};
