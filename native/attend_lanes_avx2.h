/* attend_vec.h's sixteen lanes as two AVX2 registers: lo holds lanes 0-7, hi lanes 8-15. */
#define FW_TARGET FW_AVX2
#define VI static inline FW_TARGET __attribute__((always_inline, unused))
#define FW_MAX_TILE 3
#define FW_MAX_WIDE 2
#define FW_DOT_TILE 1
#define FW_FEW 8

typedef struct { __m256 lo, hi; } vf;
typedef struct { __m256i lo, hi; } vsum;
#define v_pin(x) (void)0

#define BOTH1(op, a) ((vf){op((a).lo), op((a).hi)})
#define BOTH(op, a, b) ((vf){op((a).lo, (b).lo), op((a).hi, (b).hi)})

VI vf v_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VI void v_store(float *p, vf x) { _mm256_storeu_ps(p, x.lo), _mm256_storeu_ps(p + 8, x.hi); }
VI __m256 half8(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
VI vf v_load8(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_setzero_ps()}; }
VI vf v_half(const uint16_t *p) { return (vf){half8(p), half8(p + 8)}; }
VI vf v_half8(const uint16_t *p) { return (vf){half8(p), _mm256_setzero_ps()}; }
VI vf v_to_half_and_back(vf x) {
    return (vf){_mm256_cvtph_ps(_mm256_cvtps_ph(x.lo, 0)), _mm256_cvtph_ps(_mm256_cvtps_ph(x.hi, 0))};
}
VI vf v_codes(const uint8_t *p, const int bits) {
    const __m128i x = fw_codes16(p, bits);
    return (vf){_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x)))};
}
VI void v_to_half8(uint16_t *p, const float *x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(_mm256_loadu_ps(x), 0));
}
VI vf v_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VI vf v_add(vf a, vf b) { return BOTH(_mm256_add_ps, a, b); }
VI vf v_sub(vf a, vf b) { return BOTH(_mm256_sub_ps, a, b); }
VI vf v_mul(vf a, vf b) { return BOTH(_mm256_mul_ps, a, b); }
VI vf v_div(vf a, vf b) { return BOTH(_mm256_div_ps, a, b); }
VI vf v_max(vf a, vf b) { return BOTH(_mm256_max_ps, a, b); }
VI vf v_min(vf a, vf b) { return BOTH(_mm256_min_ps, a, b); }
VI vf v_fma(vf a, vf b, vf c) { return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
VI __m256 keep8(__m256 x, uint32_t bits, float other) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i m = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane);
    return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_castsi256_ps(m));
}
VI vf v_keep(vf x, uint32_t bits, float other) { return (vf){keep8(x.lo, bits, other), keep8(x.hi, bits >> 8, other)}; }
VI vf v_exp(vf x) { return BOTH1(fw_exp8, x); }
VI vsum vs_zero(void) { return (vsum){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
VI __m256i units8(__m256 p) { return _mm256_cvtps_epi32(_mm256_mul_ps(p, _mm256_set1_ps(FW_SUM_UNITS))); }
VI vsum vs_add(vsum s, vf p) {
    return (vsum){_mm256_add_epi32(s.lo, units8(p.lo)), _mm256_add_epi32(s.hi, units8(p.hi))};
}
VI int64_t vs_total(vsum s) {
    uint32_t t[16];
    int64_t sum = 0;
    _mm256_storeu_si256((__m256i *)t, s.lo), _mm256_storeu_si256((__m256i *)(t + 8), s.hi);
    for (int i = 0; i < 16; i++) sum += t[i];
    return sum;
}
VI float v_hmax(vf x) {
    float t[8], m;
    _mm256_storeu_ps(t, _mm256_max_ps(x.lo, x.hi));
    m = t[0];
    for (int i = 1; i < 8; i++) m = t[i] > m ? t[i] : m;
    return m;
}

/* Lane sums of eight keys, each by the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1); x[i]: (l, l+8) of key i. */
VI __m256 trees8(const __m256 *x) {
    __m256 b[4], c[2];
    for (int i = 0; i < 4; i++) /* keys i and i + 4 share a register */
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(x[i], x[i + 4], 0x20), _mm256_permute2f128_ps(x[i], x[i + 4], 0x31));
    for (int i = 0; i < 2; i++)
        c[i] = _mm256_add_ps(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(c[0], c[1], 0x88), _mm256_shuffle_ps(c[0], c[1], 0xdd));
}

/* q . 16 keys of dp values each. Four keys at a time: their sums and the query fit the sixteen registers. */
VI vf v_dots(const float *q, long dp, const float *keys) {
    __m256 x[16];
#pragma GCC unroll 4
    for (int g = 0; g < 16; g += 4) {
        vf a[4];
        const float *k = keys + g * dp;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) a[j] = v_mul(v_load(q), v_load(k + j * dp));
        for (long c = 16; c < dp; c += 16) {
            const vf y = v_load(q + c);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) a[j] = v_fma(y, v_load(k + j * dp + c), a[j]);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) x[g + j] = _mm256_add_ps(a[j].lo, a[j].hi);
    }
    return (vf){trees8(x), trees8(x + 8)};
}

/* to[i * ld_to + j] = rows[j * ld + i] for i, j < 8. */
VI void transpose8(const float *rows, long ld, float *to, long ld_to) {
    __m256 r[8], s[8];
    for (int i = 0; i < 4; i++) { /* rows i and i + 4 exchange halves, so the rest stays inside 128 bits */
        const __m256 x = _mm256_loadu_ps(rows + i * ld), y = _mm256_loadu_ps(rows + (i + 4) * ld);
        r[i] = _mm256_permute2f128_ps(x, y, 0x20), r[i + 4] = _mm256_permute2f128_ps(x, y, 0x31);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) { /* rows 0 and 1, then 2 and 3 */
            s[i + 2 * j] = _mm256_unpacklo_ps(r[i + 2 * j], r[i + 2 * j + 1]);
            s[i + 2 * j + 1] = _mm256_unpackhi_ps(r[i + 2 * j], r[i + 2 * j + 1]);
        }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            _mm256_storeu_ps(to + (i + 2 * j) * ld_to, _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44));
            _mm256_storeu_ps(to + (i + 2 * j + 1) * ld_to, _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xee));
        }
}

/* to[i * ld_to + j] = rows[j * ld + i] for i, j < 16. */
VI void v_transpose(const float *rows, long ld, float *to, long ld_to) {
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 16; j += 8) transpose8(rows + j * ld + i, ld, to + i * ld_to + j, ld_to);
}
