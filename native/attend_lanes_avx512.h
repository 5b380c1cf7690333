/* attend_vec.h's sixteen lanes as one AVX-512 register. */
#define FW_TARGET FW_AVX512
#define VI static inline FW_TARGET __attribute__((always_inline, unused))
#define FW_MAX_TILE 6 /* rows of the probability x value tile */
#define FW_MAX_WIDE 4 /* its vectors of values */
#define FW_DOT_TILE 2 /* query rows of the dot product tile */
#define FW_FEW 4

typedef __m512 vf;
typedef __m512i vsum;
#define v_pin(x) __asm__("" : "+v"(x)) /* keep it in a register: two uses, one load */

VI vf v_load(const float *p) { return _mm512_loadu_ps(p); }
VI void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
VI vf v_load8(const float *p) { return _mm512_maskz_loadu_ps(0xff, p); }
VI vf v_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
VI vf v_half8(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)p)));
}
VI vf v_to_half_and_back(vf x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, 0)); }
VI vf v_codes(const uint8_t *p, const int bits) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(fw_codes16(p, bits))); }
VI void v_to_half8(uint16_t *p, const float *x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(_mm256_loadu_ps(x), 0));
}
VI vf v_set1(float x) { return _mm512_set1_ps(x); }
VI vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VI vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VI vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VI vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VI vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VI vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VI vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VI vf v_keep(vf x, uint32_t bits, float other) { return _mm512_mask_mov_ps(_mm512_set1_ps(other), (__mmask16)bits, x); }
VI vf v_exp(vf x) { return fw_exp16(x); }
VI vsum vs_zero(void) { return _mm512_setzero_si512(); }
VI vsum vs_add(vsum s, vf p) {
    return _mm512_add_epi32(s, _mm512_cvtps_epi32(_mm512_mul_ps(p, _mm512_set1_ps(FW_SUM_UNITS))));
}
VI int64_t vs_total(vsum s) {
    __m512i even = _mm512_and_si512(s, _mm512_set1_epi64(0xffffffff));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(even, _mm512_srli_epi64(s, 32)));
}
VI float v_hmax(vf x) { return _mm512_reduce_max_ps(x); }

/* Lane sums of sixteen vectors, each by the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1). */
VI vf v_trees(const vf *a) {
    vf b[8], c[4], d[2];
    for (int i = 0; i < 8; i++) {
        int j = (i & 3) | (i & 4) << 1; /* keys 0-3 and 8-11 pair with 4-7 and 12-15 */
        b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[j], a[j + 4], 0x44), _mm512_shuffle_f32x4(a[j], a[j + 4], 0xee));
    }
    for (int i = 0; i < 4; i++)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd));
    for (int i = 0; i < 2; i++)
        d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0x44),
                             _mm512_shuffle_ps(c[2 * i], c[2 * i + 1], 0xee));
    return _mm512_add_ps(_mm512_shuffle_ps(d[0], d[1], 0x88), _mm512_shuffle_ps(d[0], d[1], 0xdd));
}

/* to[i * ld_to + j] = rows[j * ld + i] for i, j < 16. */
VI void v_transpose(const float *rows, long ld, float *to, long ld_to) {
    __m512 r[16], s[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(rows + i * ld);
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            s[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0x88);
            s[i + j + 4] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_ps(to + j * ld_to, _mm512_shuffle_f32x4(s[j], s[j + 8], 0x88));
        _mm512_storeu_ps(to + (j + 8) * ld_to, _mm512_shuffle_f32x4(s[j], s[j + 8], 0xdd));
    }
}
