/* One strip times activation tiles with AVX2 and FMA, sixteen outputs and up to four rows at a time.
 *
 * vpmaddubsw adds two products in 16 bits, and such sums are added in 16 bits as long as nothing can overflow: 8 quads
 * of 4-bit weights (8 * 2 * 15 * 127 < 2^15), 4 of 5-bit, 2 of 6-bit ones. 8-bit weights and their codes are widened to
 * 16 bits, where vpmaddwd adds two products in 32.
 */
#include "linear.h"

#if FW_X86
#define INLINE static inline __attribute__((always_inline)) FW_AVX2
#define PASS 4 /* rows at a time */

INLINE __m256 half8(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

/* four bytes in every lane: a quad of codes, or a pair of widened ones */
INLINE __m256i quad(const void *x) {
    int32_t v;
    memcpy(&v, x, 4);
    return _mm256_set1_epi32(v);
}

/* the bits of quad j above the nibble, in their place */
INLINE __m256i top_bits(int width, const uint8_t *q, int j) {
    const int field = j * width;
    __m256i v = _mm256_loadu_si256((const __m256i *)(q + 256 + field / 8 * 64));
    v = field % 8 > 4 ? _mm256_srli_epi16(v, field % 8 - 4) : _mm256_slli_epi16(v, 4 - field % 8);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)(((1 << width) - 1) << 4)));
}

/* dot += quads [from, to) of sixteen outputs, weights of less than 8 bits */
INLINE void add_quads(int rows, int bits, int from, int to, __m256i dot[][2], const uint8_t *q, const int8_t *x) {
    const int safe = bits == 5 ? 4 : bits == 6 ? 2 : 8; /* quads whose sums fit 16 bits */
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    __m256i part[PASS][2];
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        __m256i u[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            u[h] = _mm256_loadu_si256((const __m256i *)(q + 64 * (j % 4) + 32 * h));
            u[h] = _mm256_and_si256(j >= 4 ? _mm256_srli_epi16(u[h], 4) : u[h], low);
            if (bits > 4) u[h] = _mm256_or_si256(u[h], top_bits(bits - 4, q + 32 * h, j));
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const __m256i v = quad(x + r * FW_BLOCK + 4 * j);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                const __m256i p = _mm256_maddubs_epi16(u[h], v);
                part[r][h] = (j - from) % safe == 0 ? p : _mm256_add_epi16(part[r][h], p);
                __asm__("" : "+x"(part[r][h])); /* else the compiler adds in another order, which spills registers */
                if (j == to - 1 || (j - from) % safe == safe - 1)
                    dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_madd_epi16(part[r][h], one));
            }
        }
    }
}

/* The codes of a block in 16 bits, as `add_bytes` wants them: inputs 0 2 4 .. of a row, then 1 3 5 .. */
INLINE void widen(int rows, const int8_t *x, int16_t *wide) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(x + r * FW_BLOCK));
        _mm256_store_si256((__m256i *)(wide + r * FW_BLOCK), _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8));
        _mm256_store_si256((__m256i *)(wide + r * FW_BLOCK + 16), _mm256_srai_epi16(v, 8));
    }
}

/* the same of 8-bit weights */
INLINE void add_bytes(int rows, int from, int to, __m256i dot[][2], const uint8_t *q, const int16_t *wide) {
    const __m256i low = _mm256_set1_epi16(255);
#pragma GCC unroll 8
    for (int j = from; j < to; j++) {
        __m256i even[2], odd[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const __m256i u = _mm256_loadu_si256((const __m256i *)(q + 64 * j + 32 * h));
            even[h] = _mm256_and_si256(u, low), odd[h] = _mm256_srli_epi16(u, 8);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const int16_t *codes = wide + r * FW_BLOCK + 2 * j;
            const __m256i x = quad(codes), y = quad(codes + 16);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_madd_epi16(even[h], x));
                __asm__("" : "+x"(dot[r][h]));
                dot[r][h] = _mm256_add_epi32(dot[r][h], _mm256_madd_epi16(odd[h], y));
                __asm__("" : "+x"(dot[r][h]));
            }
        }
    }
}

/* acc += a whole block (group 32) or half g of it (16) */
INLINE void add_group(int rows, int bits, int group, int g, __m256 acc[][2], const uint8_t *q, const int8_t *x,
                      const int16_t *wide, const uint16_t *scale, const uint16_t *min, __m256 zero, const float *xs,
                      const float *xsum) {
    __m256i dot[PASS][2];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    if (bits == 8) add_bytes(rows, g * group / 4, (g + 1) * group / 4, dot, q, wide);
    else add_quads(rows, bits, g * group / 4, (g + 1) * group / 4, dot, q, x);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m256 s = half8(scale + 8 * h), m = min ? half8(min + 8 * h) : _mm256_mul_ps(s, zero);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const __m256 d = _mm256_mul_ps(_mm256_cvtepi32_ps(dot[r][h]), _mm256_set1_ps(xs[r]));
            acc[r][h] = _mm256_fmadd_ps(_mm256_set1_ps(xsum[r]), m, _mm256_fmadd_ps(d, s, acc[r][h]));
        }
    }
}

/* Bring a share of the next strip into the second-level cache: in each pass over this one as much as in the others, so
 * that memory works while the arithmetic does. `lines` is the share of one block. */
INLINE void fetch(const char *next, long block, int lines) {
    next += block * lines * 64;
    for (int l = 0; l < lines; l++) _mm_prefetch(next + 64 * l, _MM_HINT_T1);
}

/* Outputs 16 e .. 16 e + 15 of a strip for rows i .. i + rows - 1 of a tile. */
INLINE void half_strip(int rows, int bits, int group, int halves, const fw_packed *w, long strip, int e,
                       const fw_act *a, long tile, int i, fw_out to, const char *next, int lines) {
    const int per = FW_BLOCK / group, R = fw_tile_rows(a, tile);
    const __m256 zero = _mm256_set1_ps(-w->zero);
    __attribute__((aligned(32))) int16_t wide[PASS * FW_BLOCK];
    __m256 acc[PASS][2];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (long b = 0; b < w->blocks; b++) {
        if (!to.cached) fetch(next, b, lines);
        const long block = strip * w->blocks + b, at = tile * FW_ROWS * w->blocks + b * R;
        const uint8_t *q = w->q + (block * 2 + e) * 64 * bits;
        const int8_t *x = a->codes + (at + i) * FW_BLOCK;
        const uint16_t *scale = w->scale + block * per * FW_STRIP + 16 * e;
        const uint16_t *min = w->min ? w->min + block * per * FW_STRIP + 16 * e : NULL;
        const float *xs = a->scale[halves] + (1 + halves) * at + i, *xsum = a->sum[halves] + (1 + halves) * at + i;
        if (bits == 8) {
            widen(rows, x, wide);
            __asm__ volatile("" ::: "memory"); /* else the compiler shuffles the codes out of registers */
        }
        const long second = per == 2 ? FW_STRIP : 0; /* scales of the second half */
        add_group(rows, bits, halves ? 16 : 32, 0, acc, q, x, wide, scale, min, zero, xs, xsum);
        if (halves)
            add_group(rows, bits, 16, 1, acc, q, x, wide, scale + second, min ? min + second : NULL, zero, xs + R,
                      xsum + R);
    }
    const long n = fw_min(w->n - strip * FW_STRIP - 16 * e, 16);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        float v[16], *y = to.y + (i + r) * to.stride + 16 * e;
        _mm256_storeu_ps(v, _mm256_mul_ps(acc[r][0], _mm256_set1_ps(w->unscale)));
        _mm256_storeu_ps(v + 8, _mm256_mul_ps(acc[r][1], _mm256_set1_ps(w->unscale)));
        for (long o = 0; o < n; o++) y[o] = to.add ? y[o] + v[o] : v[o];
    }
}

#define PASS_OF(R, B, G, H)                                                   \
    half_strip(R, B, G, H, w, strip, e, a, t, i, y, next, lines), i += R,     \
        next += w->blocks * 64 * lines

#define STRIP(B, G, H)                                                                                             \
    static FW_AVX2 void strip_##B##_##G##_##H(const fw_packed *w, long strip, const fw_act *a, long t, fw_out y) { \
        const int rows = fw_tile_rows(a, t), passes = 2 * (rows / 4 + rows / 2 % 2 + rows % 2);                     \
        const int lines = (2 * B + passes - 1) / passes;                                                           \
        const char *next = (const char *)w->q + (strip + 1) * w->blocks * 128 * B;                                 \
        for (int e = 0; e < 2; e++) {                                                                              \
            int i = 0;                                                                                             \
            while (i + 4 <= rows) PASS_OF(4, B, G, H);                                                             \
            if (i + 2 <= rows) PASS_OF(2, B, G, H);                                                                \
            if (i < rows) PASS_OF(1, B, G, H);                                                                     \
        }                                                                                                          \
    }
STRIP(4, 32, 0) STRIP(5, 32, 0) STRIP(8, 32, 0)
STRIP(4, 32, 1) STRIP(5, 32, 1) STRIP(8, 32, 1)
STRIP(4, 16, 1) STRIP(6, 16, 1) STRIP(8, 16, 1)

typedef void (*tile_fn)(const fw_packed *, long, const fw_act *, long, fw_out);
static const tile_fn table[3][9] = {
    {[4] = strip_4_32_0, [5] = strip_5_32_0, [8] = strip_8_32_0},
    {[4] = strip_4_32_1, [5] = strip_5_32_1, [8] = strip_8_32_1},
    {[4] = strip_4_16_1, [6] = strip_6_16_1, [8] = strip_8_16_1},
};

void fw_strip_avx2(const fw_packed *w, long strip, const fw_act *a, long first, long count, fw_out out) {
    const tile_fn fn = table[w->group == 16 ? 2 : fw_by_halves(w, a)][w->bits];
    for (long t = first; t < first + count; t++, out.y += FW_ROWS * out.stride) fn(w, strip, a, t, out), out.cached = 1;
}
#endif
