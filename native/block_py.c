/* Python methods of a layer: see block.h. Addresses and the matrices' mutual shapes are checked in kernels/block.py. */
#include "block.h"
#include "py_args.h"

static void block_free(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, FW_BLOCK_NAME)); }

static PyObject *block_new(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_packed *q, *k, *v, *o, *gate, *up, *down;
    fw_block b = {0};
    long act, planes;
    if (!fw_args("block_new", args, n, "wwwwwwwpppppppppflll", &q, &k, &v, &o, &gate, &up, &down, &b.q_bias, &b.k_bias,
                 &b.v_bias, &b.attn_norm, &b.mlp_norm, &b.q_norm, &b.k_norm, &b.post_attn_norm, &b.post_mlp_norm,
                 &b.eps, &b.head_dim, &act, &planes))
        return NULL;
    if (planes != 1 && planes != 2) return PyErr_Format(PyExc_ValueError, "block_new: %ld planes, not 1 or 2", planes);
    b.planes = (int)planes;
    b.q = *q, b.k = *k, b.v = *v, b.o = *o, b.gate = *gate, b.up = *up, b.down = *down, b.act = (int)act;
    fw_block *kept = PyMem_Malloc(sizeof *kept);
    if (kept == NULL) return PyErr_NoMemory();
    *kept = b;
    PyObject *capsule = PyCapsule_New(kept, FW_BLOCK_NAME, block_free);
    if (capsule == NULL) PyMem_Free(kept);
    return capsule;
}

static PyObject *block_qkv(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_block *b;
    void *x, *cos, *sin, *q, *k, *v;
    long rows;
    if (!fw_args("block_qkv", args, n, "bplppppp", &b, &x, &rows, &cos, &sin, &q, &k, &v)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_block_qkv(b, x, rows, cos, sin, q, k, v);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *block_out(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_block *b;
    void *o, *x;
    long rows;
    if (!fw_args("block_out", args, n, "bppl", &b, &o, &x, &rows)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_block_out(b, o, x, rows);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *block_mlp(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_block *b;
    void *x;
    long rows;
    if (!fw_args("block_mlp", args, n, "bpl", &b, &x, &rows)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_block_mlp(b, x, rows);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}
PyMethodDef fw_block_methods[] = {
    FAST(block_new, "block_new(q, k, v, o, gate, up, down, biases q k v, norms attn mlp q k post_attn post_mlp, eps, "
                    "head_dim, act 0 silu | 1 gelu, planes) -> handle; keep the memory alive"),
    FAST(block_qkv, "block_qkv(block, x, rows, cos, sin, q, k, v)"),
    FAST(block_out, "block_out(block, o, x, rows): x += post(o Wo)"),
    FAST(block_mlp, "block_mlp(block, x, rows): x += post(mlp(norm(x)))"),
    {NULL, NULL, 0, NULL},
};
