/* What the machine can do at best, for benchmarks: reading memory, and multiply-adds of int8 and float32 from registers. */
#include "matmul.h"
#include "py_args.h"

#define CHUNK (1 << 18)

typedef struct {
    const uint64_t *p;
    long words;
    uint64_t sums[FW_MAX_THREADS][8]; /* a cache line each */
} read_job;

static void read_task(void *ctx, long task, int worker) {
    read_job *j = ctx;
    uint64_t lane[8] = {0};
    const uint64_t *p = j->p + task * (CHUNK / 8), *end = j->p + fw_min(j->words, (task + 1) * (CHUNK / 8));
    for (; p + 8 <= end; p += 8) {
#if defined(__GNUC__)
        __builtin_prefetch(p + 512);
#endif
        for (int i = 0; i < 8; i++) lane[i] ^= p[i];
    }
    for (int i = 0; i < 8; i++) j->sums[worker][0] ^= lane[i];
}

/* read_memory(address, bytes) -> a checksum, so that nothing is optimised away */
static PyObject *read_memory(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static read_job j;
    void *p;
    long bytes;
    if (!fw_args("read_memory", args, n, "pl", &p, &bytes)) return NULL;
    uint64_t sum = 0;
    Py_BEGIN_ALLOW_THREADS
    fw_begin();
    memset(&j, 0, sizeof j);
    j.p = p, j.words = bytes / 8;
    fw_parallel(read_task, &j, fw_ceil(bytes, CHUNK));
    for (int i = 0; i < FW_MAX_THREADS; i++) sum ^= j.sums[i][0];
    fw_end();
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(sum);
}

#define CHAINS 6 /* independent sums of bytes, enough to hide the latency of each */
#define FMAS 10  /* of floats: two units, four to five cycles */

#if FW_X86
static FW_AVX512 void spin_vnni(long n) {
    __m512i a[CHAINS], u = _mm512_set1_epi8(3);
#pragma GCC unroll 6
    for (int i = 0; i < CHAINS; i++) a[i] = _mm512_set1_epi32(i);
    for (long k = 0; k < n; k++) {
#pragma GCC unroll 6
        for (int i = 0; i < CHAINS; i++) {
            a[i] = _mm512_dpbusd_epi32(a[i], u, u);
            __asm__ volatile("" : "+v"(a[i]));
        }
    }
}

/* Without VNNI a multiply-add of bytes is two instructions: into 16 bits, and a sum. */
static FW_AVX2 void spin_avx2(long n) {
    __m256i a[CHAINS], u = _mm256_set1_epi8(3);
#pragma GCC unroll 6
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_set1_epi16((short)i);
    for (long k = 0; k < n; k++) {
#pragma GCC unroll 6
        for (int i = 0; i < CHAINS; i++) {
            __asm__ volatile("" : "+x"(u)); /* a value that is not known, or there is no multiplication */
            a[i] = _mm256_add_epi16(a[i], _mm256_maddubs_epi16(u, u));
            __asm__ volatile("" : "+x"(a[i]));
        }
    }
}

static FW_AVX512 void spin_fma512(long n) {
    __m512 a[FMAS], u = _mm512_set1_ps(0.5f);
#pragma GCC unroll 10
    for (int i = 0; i < FMAS; i++) a[i] = _mm512_set1_ps((float)i);
    for (long k = 0; k < n; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < FMAS; i++) {
            a[i] = _mm512_fmadd_ps(a[i], u, u);
            __asm__ volatile("" : "+v"(a[i]));
        }
    }
}

static FW_AVX2 void spin_fma256(long n) {
    __m256 a[FMAS], u = _mm256_set1_ps(0.5f);
#pragma GCC unroll 10
    for (int i = 0; i < FMAS; i++) a[i] = _mm256_set1_ps((float)i);
    for (long k = 0; k < n; k++) {
#pragma GCC unroll 10
        for (int i = 0; i < FMAS; i++) {
            a[i] = _mm256_fmadd_ps(a[i], u, u);
            __asm__ volatile("" : "+x"(a[i]));
        }
    }
}
#endif

static void float_task(void *ctx, long task, int worker) {
    (void)task, (void)worker;
#if FW_X86
    if (fw_isa() == FW_AVX512_VNNI) spin_fma512(*(long *)ctx);
    else spin_fma256(*(long *)ctx);
#else
    (void)ctx;
#endif
}

static void int8_task(void *ctx, long task, int worker) {
    (void)task, (void)worker;
#if FW_X86
    if (fw_isa() == FW_AVX512_VNNI) spin_vnni(*(long *)ctx);
    else spin_avx2(*(long *)ctx);
#else
    (void)ctx;
#endif
}

/* Run `task` of `loops` loops on every thread; -> multiply-adds done by all, 0 for plain C, whose best is the compiler's business */
static PyObject *peak(fw_task task, const char *name, PyObject *const *args, Py_ssize_t n, long a_loop) {
    long loops;
    if (!fw_args(name, args, n, "l", &loops)) return NULL;
    if (fw_isa() == FW_PLAIN) return PyLong_FromLong(0);
    const long tasks = fw_threads(), wide = fw_isa() == FW_AVX512_VNNI ? 2 : 1;
    Py_BEGIN_ALLOW_THREADS
    fw_parallel(task, &loops, tasks);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(tasks * loops * a_loop * wide);
}

static PyObject *int8_macs(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    return peak(int8_task, "int8_macs", args, n, CHAINS * 32);
}

static PyObject *float_macs(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    return peak(float_task, "float_macs", args, n, FMAS * 8);
}

PyMethodDef fw_limit_methods[] = {
    {"read_memory", (PyCFunction)(void (*)(void))read_memory, METH_FASTCALL, "read_memory(address, bytes) -> checksum"},
    {"int8_macs", (PyCFunction)(void (*)(void))int8_macs, METH_FASTCALL, "int8_macs(loops) -> multiply-adds done"},
    {"float_macs", (PyCFunction)(void (*)(void))float_macs, METH_FASTCALL, "float_macs(loops) -> multiply-adds done"},
    {NULL, NULL, 0, NULL},
};
