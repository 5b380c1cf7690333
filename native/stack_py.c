/* Python methods of a stack of layers: see stack.h. kernels/stack.py checks what it passes. */
#include "stack.h"
#include "py_args.h"

#define STACK_NAME "fewer.stack"

static void stack_free(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, STACK_NAME)); }

/* One allocation: the struct, then the blocks' addresses, then the windows. */
static PyObject *stack_new(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    if (n < 1 || !PyTuple_Check(args[0])) return PyErr_Format(PyExc_TypeError, "stack_new: a tuple of blocks comes first");
    const Py_ssize_t layers = PyTuple_GET_SIZE(args[0]);
    const int64_t *windows;
    fw_stack s = {.n_layers = layers};
    if (!fw_args("stack_new", args + 1, n - 1, "pllff", &windows, &s.n_heads, &s.n_kv_heads, &s.scale, &s.softcap))
        return NULL;
    fw_stack *kept = PyMem_Malloc(sizeof s + (size_t)layers * 16);
    if (kept == NULL) return PyErr_NoMemory();
    *kept = s;
    kept->blocks = (const fw_block **)(kept + 1);
    int64_t *own = (int64_t *)(kept->blocks + layers);
    kept->windows = own;
    for (Py_ssize_t l = 0; l < layers; l++) {
        kept->blocks[l] = PyCapsule_GetPointer(PyTuple_GET_ITEM(args[0], l), FW_BLOCK_NAME);
        own[l] = windows[l];
        if (kept->blocks[l] == NULL) {
            PyMem_Free(kept);
            return NULL;
        }
    }
    PyObject *capsule = PyCapsule_New(kept, STACK_NAME, stack_free);
    if (capsule == NULL) PyMem_Free(kept);
    return capsule;
}

static PyObject *stack_run(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    const fw_stack *s = n < 1 ? NULL : PyCapsule_GetPointer(args[0], STACK_NAME);
    if (s == NULL) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "stack_run: a stack comes first");
    long from, to;
    float *x;
    const float *const *cos, *const *sin;
    const uint8_t *const *visible;
    const int64_t *staged;
    fw_rows r = {.n_kv_heads = s->n_kv_heads};
    fw_reads reads;
    if (!fw_args("stack_run", args + 1, n - 1, "llppplpppppppppl", &from, &to, &x, &cos, &sin, &r.n_seq, &r.row_start, &r.tables,
                 &r.nseg, &r.pos, &visible, &staged, &reads.picked, &reads.heads, &reads.rank_from, &r.d))
        return NULL;
    if (from < 0 || from > to || to > s->n_layers || r.n_seq < 0)
        return PyErr_Format(PyExc_ValueError, "stack_run: layers %ld to %ld of %ld, %ld sequences", from, to, s->n_layers, r.n_seq);
    int ok;
    Py_BEGIN_ALLOW_THREADS
    ok = fw_layers(s, from, to, x, r, cos, sin, visible, staged, reads);
    Py_END_ALLOW_THREADS
    if (!ok) return PyErr_Format(PyExc_IndexError, FW_PICKS_WRONG);
    Py_RETURN_NONE;
}

static PyObject *stack_between(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    const fw_stack *s = n < 1 ? NULL : PyCapsule_GetPointer(args[0], STACK_NAME);
    if (s == NULL) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "stack_between: a stack comes first");
    long from, to;
    float *x, *q;
    const float *o, *const *cos, *const *sin;
    fw_rows r = {.n_kv_heads = s->n_kv_heads};
    if (!fw_args("stack_between", args + 1, n - 1, "llppppplppppl", &from, &to, &x, &o, &q, &cos, &sin, &r.n_seq,
                 &r.row_start, &r.tables, &r.nseg, &r.pos, &r.d))
        return NULL;
    if (from < -1 || to < -1 || from >= s->n_layers || to >= s->n_layers || r.n_seq < 0)
        return PyErr_Format(PyExc_ValueError, "stack_between: layers %ld and %ld of %ld", from, to, s->n_layers);
    Py_BEGIN_ALLOW_THREADS
    fw_between(s, from, to, x, o, r, cos, sin, q);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}
PyMethodDef fw_stack_methods[] = {
    FAST(stack_new, "stack_new(blocks, windows, n_heads, n_kv_heads, scale, softcap) -> handle; keep the blocks alive"),
    FAST(stack_run, "stack_run(stack, from, to, x, cos, sin, n_seq, row_start, tables, nseg, pos, visible, staged, picked, heads, rank_from, "
                    "head_dim)"),
    FAST(stack_between, "stack_between(stack, from, to, x, o, q, cos, sin, n_seq, row_start, tables, nseg, pos, head_dim)"),
    {NULL, NULL, 0, NULL},
};
