/* Python methods of attention: plain integers and addresses in, no objects kept. attention.py checks what it passes. */
#include "py_args.h"

#include "attend.h"

static int rows_ok(const fw_rows *r) {
    if (r->n_seq >= 0 && r->n_kv_heads > 0 && r->d >= 8 && r->d <= 256 && r->d % 8 == 0) return 1;
    PyErr_Format(PyExc_ValueError, "%ld kv heads of size %ld: sizes are multiples of 8 up to 256", r->n_kv_heads, r->d);
    return 0;
}

static PyObject *py_append(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_rows r;
    const float *k, *v;
    if (!fw_args("append_kv", args, n, "lppppllpp", &r.n_seq, &r.row_start, &r.tables, &r.nseg, &r.pos, &r.n_kv_heads,
                 &r.d, &k, &v) || !rows_ok(&r))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fw_append(&r, k, v);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_attend(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    fw_attend_call c;
    fw_rows *r = &c.rows;
    if (!fw_args("attend", args, n, "lppppllpppppllffppllp", &r->n_seq, &r->row_start, &r->tables, &r->nseg, &r->pos,
                 &r->n_kv_heads, &r->d, &c.visible, &c.staged, &c.q, &c.o, &c.lse, &c.n_heads, &c.window, &c.scale,
                 &c.softcap, &c.mass, &c.mass_slot, &c.mass_heads, &c.mass_keys, &c.picked) || !rows_ok(r))
        return NULL;
    if (!fw_picks_ok(&c))
        return PyErr_Format(PyExc_IndexError, FW_PICKS_WRONG);
    if (c.n_heads < 1 || c.n_heads % r->n_kv_heads)
        return PyErr_Format(PyExc_ValueError, "%ld query heads cannot share %ld kv heads", c.n_heads, r->n_kv_heads);
    Py_BEGIN_ALLOW_THREADS
    fw_attend(&c);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef fw_attend_methods[] = {
    {"append_kv", (PyCFunction)(void (*)(void))py_append, METH_FASTCALL,
     "append_kv(n_seq, row_start, tables, nseg, pos, n_kv_heads, head_dim, k, v): this step's rows into the tails."},
    {"attend", (PyCFunction)(void (*)(void))py_attend, METH_FASTCALL,
     "attend(n_seq, row_start, tables, nseg, pos, n_kv_heads, head_dim, visible, staged, q, o, lse, n_heads, window,\n"
     "scale, softcap, mass, mass_slot, mass_heads, mass_keys, picked): attention of this step's rows; addresses as integers, 0 = absent."},
    {NULL, NULL, 0, NULL},
};
