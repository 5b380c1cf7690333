/* Python methods of packed matrices: making the handle, products, the head, embedding rows.
 * Addresses are trusted: kernels/ops.py checks shapes, types and contiguity before it calls. */
#include "matmul.h"
#include "py_args.h"

static void packed_free(PyObject *capsule) { PyMem_Free(PyCapsule_GetPointer(capsule, FW_PACKED_NAME)); }

static PyObject *packed_new(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    void *q, *scale, *min;
    long bits, group, outs, ins;
    float zero, unscale;
    if (!fw_args("packed_new", args, n, "pppllllff", &q, &scale, &min, &bits, &group, &outs, &ins, &zero, &unscale))
        return NULL;
    const int any = (bits == 4 || bits == 8) && (group == 16 || group == 32);
    const int form = any || (bits == 5 && group == 32) || (bits == 6 && group == 16);
    if (!form || outs < 1 || ins < 1 || !q || !scale)
        return PyErr_Format(PyExc_ValueError, "packed_new: bits %ld, group %ld, (%ld, %ld)", bits, group, outs, ins);
    fw_packed *w = PyMem_Malloc(sizeof *w);
    if (w == NULL) return PyErr_NoMemory();
    *w = (fw_packed){.q = q, .scale = scale, .min = min, .n = outs, .k = ins, .bits = (int)bits, .group = (int)group};
    w->strips = fw_ceil(outs, FW_STRIP), w->blocks = fw_ceil(ins, FW_BLOCK), w->zero = zero, w->unscale = unscale;
    PyObject *capsule = PyCapsule_New(w, FW_PACKED_NAME, packed_free);
    if (capsule == NULL) PyMem_Free(w);
    return capsule;
}

static PyObject *linear(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_packed *w;
    void *x, *bias, *y;
    long rows;
    if (!fw_args("linear", args, n, "wplpp", &w, &x, &rows, &bias, &y)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_linear(w, x, rows, bias, y);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static int planes_ok(long planes) {
    if (planes == 1 || planes == 2) return 1;
    PyErr_Format(PyExc_ValueError, "activations have 1 or 2 planes, not %ld", planes);
    return 0;
}

static PyObject *logits(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_packed *w;
    void *x, *norm, *out;
    long rows;
    float eps;
    long planes;
    if (!fw_args("logits", args, n, "wplpflp", &w, &x, &rows, &norm, &eps, &planes, &out) || !planes_ok(planes)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_logits(w, x, rows, norm, eps, (int)planes, out);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *best(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_packed *w;
    void *x, *norm, *ids, *values;
    long rows, planes, k;
    float eps;
    if (!fw_args("best", args, n, "wplpfllpp", &w, &x, &rows, &norm, &eps, &planes, &k, &ids, &values) || !planes_ok(planes))
        return NULL;
    if (k < 1 || k > w->n) return PyErr_Format(PyExc_ValueError, "best: %ld of %ld logits", k, w->n);
    Py_BEGIN_ALLOW_THREADS
    fw_best(w, x, rows, norm, eps, (int)planes, k, ids, values);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *embed(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_packed *w;
    int64_t *ids;
    void *out;
    long rows;
    if (!fw_args("embed", args, n, "wplp", &w, &ids, &rows, &out)) return NULL;
    for (long i = 0; i < rows; i++)
        if (ids[i] < 0 || ids[i] >= w->n)
            return PyErr_Format(PyExc_IndexError, "embed: id %lld is not in [0, %ld)", (long long)ids[i], w->n);
    Py_BEGIN_ALLOW_THREADS
    fw_embed(w, ids, rows, out);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#define FAST(name, doc) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, doc}
PyMethodDef fw_linear_methods[] = {
    FAST(packed_new, "packed_new(q, scale, min, bits, group, n, k, zero, unscale) -> handle; keep the memory alive"),
    FAST(linear, "linear(w, x, rows, bias, y): y = x W^T + bias"),
    FAST(logits, "logits(w, x, rows, norm, eps, planes, out): RMSNorm then product"),
    FAST(best, "best(w, x, rows, norm, eps, planes, k, ids, values): the k largest logits of each row, sorted"),
    FAST(embed, "embed(w, ids, rows, out): rows of w as floats"),
    {NULL, NULL, 0, NULL},
};
