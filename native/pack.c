/* GGUF blocks into the packed layout of linear.h, strip by strip, with the stored integers unchanged.
 *
 * Each decoder below turns one file block (32 or 256 weights) into codes in natural order and, per group, a scale and a
 * minimum; ggml keeps nibbles, high bits and 6-bit scales in its own order. The weight is scale * code + min, or
 * scale * (code - zero). Scales are stored as halves after multiplication with a power of two (`factor`).
 */
#include "matmul.h"
#include "py_args.h"

#define MAX_BLOCK 256
typedef void (*decode_fn)(const uint8_t *src, uint8_t *code, float *scale, float *min);

static float load_half(const uint8_t *p) { return fw_half((uint16_t)(p[0] | p[1] << 8)); }

/* Round to nearest even; |x| must be below 65520. */
static uint16_t to_half(float x) {
    uint32_t sign = fw_bits(x) >> 16 & 0x8000u, mag = fw_bits(x) & 0x7fffffffu;
    if (mag < 0x38800000u) /* below 2^-14: adding 1/2 leaves the subnormal half in the low bits, rounded */
        return (uint16_t)(sign | (fw_bits(fw_from_bits(mag) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (((mag + 0xfffu + (mag >> 13 & 1)) >> 13) - (112u << 10)));
}

static void nibbles(const uint8_t *src, uint8_t *code, int n) { /* n low nibbles, then n high ones */
    for (int l = 0; l < n; l++) code[l] = src[l] & 15, code[n + l] = src[l] >> 4;
}

static void high_bits(const uint8_t *src, uint8_t *code) { /* fifth bits of 32 codes, as one little-endian word */
    for (int i = 0; i < 4; i++) { /* a byte's eight bits into eight bytes, all at once */
        uint64_t at = src[i] * 0x0101010101010101u & 0x8040201008040201u, v;
        memcpy(&v, code + 8 * i, 8);
        v |= (at + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
        memcpy(code + 8 * i, &v, 8);
    }
}

static void q4_0(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    (void)min;
    scale[0] = load_half(src);
    nibbles(src + 2, code, 16);
}

static void q4_1(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    scale[0] = load_half(src), min[0] = load_half(src + 2);
    nibbles(src + 4, code, 16);
}

static void q5_0(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    (void)min;
    scale[0] = load_half(src);
    nibbles(src + 6, code, 16);
    high_bits(src + 2, code);
}

static void q5_1(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    scale[0] = load_half(src), min[0] = load_half(src + 2);
    nibbles(src + 8, code, 16);
    high_bits(src + 4, code);
}

static void q8_0(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    (void)min;
    scale[0] = load_half(src);
    for (int l = 0; l < 32; l++) code[l] = src[2 + l] ^ 0x80; /* int8 + 128 */
}

/* Eight 6-bit scales and minimums in 12 bytes. */
static void k_scales(const uint8_t *src, float *scale, float *min) {
    const float d = load_half(src), dmin = load_half(src + 2);
    const uint8_t *p = src + 4;
    for (int j = 0; j < 8; j++) {
        int s = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | (p[j - 4] >> 6 << 4);
        int m = j < 4 ? p[j + 4] & 63 : (p[j + 4] >> 4) | (p[j] >> 6 << 4);
        scale[j] = d * (float)s, min[j] = -(dmin * (float)m);
    }
}

static void q4_k(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    k_scales(src, scale, min);
    for (int c = 0; c < 4; c++) nibbles(src + 16 + 32 * c, code + 64 * c, 32);
}

static void q5_k(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    k_scales(src, scale, min);
    for (int c = 0; c < 4; c++) nibbles(src + 48 + 32 * c, code + 64 * c, 32);
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < 32; l++) code[32 * j + l] |= (uint8_t)((src[16 + l] >> j & 1) << 4);
}

static void q6_k(const uint8_t *src, uint8_t *code, float *scale, float *min) {
    (void)min;
    const uint8_t *low = src, *high = src + 128;
    const float d = load_half(src + 208);
    for (int j = 0; j < 16; j++) scale[j] = d * (float)(int8_t)src[192 + j];
    for (int c = 0; c < 2; c++, low += 64, high += 32, code += 128) {
        nibbles(low, code, 64);
        for (int j = 0; j < 4; j++)
            for (int l = 0; l < 32; l++) code[32 * j + l] |= (uint8_t)((high[l] >> 2 * j & 3) << 4);
    }
}

static const struct {
    const char *name;
    decode_fn decode;
    int weights, bytes, bits, group; /* of a file block; of the packed form */
} kinds[] = {
    {"Q4_0", q4_0, 32, 18, 4, 32},    {"Q4_1", q4_1, 32, 20, 4, 32},    {"Q5_0", q5_0, 32, 22, 5, 32},
    {"Q5_1", q5_1, 32, 24, 5, 32},    {"Q8_0", q8_0, 32, 34, 8, 32},    {"Q4_K", q4_k, 256, 144, 4, 32},
    {"Q5_K", q5_k, 256, 176, 5, 32},  {"Q6_K", q6_k, 256, 210, 6, 16},
};

typedef struct {
    int kind;
    const uint8_t *src;
    long n, k, blocks; /* blocks: of the packed form */
    float factor;
    uint8_t *q;
    uint16_t *scale, *min;
} pack_job;

/* Codes of 32 outputs in natural order -> lines of zeroed memory; four bytes, one output's quad, at a time. */
static void interleave(const uint8_t *code, long k, long blocks, int bits, uint8_t *q) {
    const int w = bits - 4;
    const uint32_t top = 0x01010101u * ((1u << w) - 1);
    for (long b = 0; b < blocks; b++)
        for (int half = 0; half < 2; half++, q += fw_half_bytes(bits))
            for (int o = 0; o < 16; o++) {
                uint32_t quad[8], line[8] = {0};
                memcpy(quad, code + (half * 16 + o) * k + b * FW_BLOCK, FW_BLOCK);
                for (int j = 0; j < 8; j++) {
                    if (bits == 8) {
                        line[j] = quad[j];
                    } else {
                        line[j % 4] |= (quad[j] & 0x0f0f0f0fu) << j / 4 * 4;
                        line[4 + j * w / 8] |= (quad[j] >> 4 & top) << j * w % 8;
                    }
                }
                for (int j = 0; j < bits; j++) memcpy(q + 64 * j + 4 * o, line + j, 4);
            }
}

static void pack_task(void *ctx, long strip, int worker) {
    const pack_job *j = ctx;
    const int weights = kinds[j->kind].weights, bits = kinds[j->kind].bits, group = kinds[j->kind].group;
    const long per_row = j->k / weights, groups = j->k / group, rows = fw_min(j->n - strip * FW_STRIP, FW_STRIP);
    uint8_t *code = fw_scratch(worker, FW_SLOT_X, (size_t)(FW_STRIP * j->k));
    if (rows < FW_STRIP) memset(code, 0, (size_t)(FW_STRIP * j->k));
    for (long o = 0; o < rows; o++) {
        const uint8_t *src = j->src + (strip * FW_STRIP + o) * per_row * kinds[j->kind].bytes;
        for (long b = 0; b < per_row; b++, src += kinds[j->kind].bytes) {
            float scale[16], min[16];
            kinds[j->kind].decode(src, code + o * j->k + b * weights, scale, min);
            for (int g = 0; g < weights / group; g++) {
                const long at = (strip * groups + b * (weights / group) + g) * FW_STRIP + o;
                j->scale[at] = to_half(scale[g] * j->factor);
                if (j->min) j->min[at] = to_half(min[g] * j->factor);
            }
        }
    }
    interleave(code, j->k, j->blocks, bits, j->q + strip * j->blocks * 2 * fw_half_bytes(bits));
}

static PyObject *pack(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    (void)self;
    if (nargs < 1 || !PyUnicode_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "pack: the first argument names the type");
    pack_job j = {0};
    void *src, *q, *scale, *min;
    if (!fw_args("pack", args + 1, nargs - 1, "pllfppp", &src, &j.n, &j.k, &j.factor, &q, &scale, &min)) return NULL;
    const int count = sizeof kinds / sizeof *kinds;
    while (j.kind < count && PyUnicode_CompareWithASCIIString(args[0], kinds[j.kind].name) != 0) j.kind++;
    if (j.kind == count || j.n < 1 || j.k < 1 || j.k % kinds[j.kind].weights)
        return PyErr_Format(PyExc_ValueError, "pack: no type %R with rows of %ld", args[0], j.k);
    j.src = src, j.q = q, j.scale = scale, j.min = min, j.blocks = j.k / FW_BLOCK;
    Py_BEGIN_ALLOW_THREADS
    fw_parallel(pack_task, &j, fw_ceil(j.n, FW_STRIP));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyMethodDef fw_pack_methods[] = {
    {"pack", (PyCFunction)(void (*)(void))pack, METH_FASTCALL,
     "pack(type, src, n, k, factor, q, scale, min): GGUF rows to zeroed packed arrays; min 0 for symmetric types"},
    {NULL, NULL, 0, NULL},
};
