/* The Python module: method tables of the other files put together, plus the pool's and the CPU's settings. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fewer.h"

extern PyMethodDef fw_attend_methods[], fw_linear_methods[], fw_pack_methods[], fw_block_methods[],
    fw_stack_methods[], fw_limit_methods[], fw_gather_methods[], fw_dots_methods[],
    fw_ranking_methods[];

static PyObject *py_set_threads(PyObject *self, PyObject *arg) {
    (void)self;
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (n < 1 || n > FW_MAX_THREADS)
        return PyErr_Format(PyExc_ValueError, "threads: %ld is not in 1..%d", n, FW_MAX_THREADS);
    Py_BEGIN_ALLOW_THREADS
    fw_set_threads((int)n);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_threads(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyLong_FromLong(fw_threads());
}

static PyObject *py_alone(PyObject *self, PyObject *arg) {
    (void)self;
    int on = PyObject_IsTrue(arg);
    if (on < 0) return NULL;
    if (fw_alone(on) != 0) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_set_isa(PyObject *self, PyObject *arg) {
    (void)self;
    long n = PyLong_AsLong(arg);
    if (n == -1 && PyErr_Occurred()) return NULL;
    fw_set_isa((int)n);
    return PyLong_FromLong(fw_isa());
}

static PyObject *py_isa(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return Py_BuildValue("(ii)", fw_isa(), fw_isa_best());
}

static PyMethodDef methods[] = {
    {"set_threads", py_set_threads, METH_O, "set_threads(n): threads of the pool, the caller included."},
    {"threads", py_threads, METH_NOARGS, "threads() -> int"},
    {"alone", py_alone, METH_O, "alone(on): does this thread work by itself, beside the pool?"},
    {"set_isa", py_set_isa, METH_O, "set_isa(level) -> level in use: 0 plain C, 1 AVX2, 2 AVX-512 VNNI; for tests."},
    {"isa", py_isa, METH_NOARGS, "isa() -> (level in use, best level of this processor)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_doc = "CPU kernels of fewer.", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyMethodDef *parts[] = {fw_attend_methods, fw_linear_methods, fw_pack_methods,
                            fw_block_methods,  fw_stack_methods,  fw_limit_methods, fw_gather_methods,
                            fw_dots_methods,   fw_ranking_methods};
    PyObject *m = PyModule_Create(&module);
    for (size_t i = 0; m != NULL && i < sizeof parts / sizeof *parts; i++)
        if (PyModule_AddFunctions(m, parts[i]) < 0) Py_CLEAR(m);
    return m;
}
