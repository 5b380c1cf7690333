/* attend_vec.h's sixteen lanes as a C array: for machines without AVX2 (compilers turn the loops into NEON on ARM). */
#define FW_TARGET
#define VI static inline __attribute__((unused))
#define FW_MAX_TILE 1
#define FW_MAX_WIDE 4
#define FW_DOT_TILE 1
#define FW_FEW 4

typedef struct { float f[16]; } vf;
typedef int64_t vsum;
#define v_pin(x) (void)0

#define LANES(expr) \
    vf r; \
    for (int i = 0; i < 16; i++) r.f[i] = (expr); \
    return r

/* Round to nearest even; too large becomes infinity. */
VI uint16_t to_half(float x) {
    uint32_t u = fw_bits(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) /* denormal: units of 2^-24 */
        return (uint16_t)(sign | (fw_bits(fw_from_bits(a) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (((a + 0xfff + (a >> 13 & 1)) >> 13) - (112 << 10)));
}

VI vf v_load(const float *p) { LANES(p[i]); }
VI void v_store(float *p, vf x) { memcpy(p, x.f, sizeof x.f); }
VI vf v_load8(const float *p) { LANES(i < 8 ? p[i] : 0.0f); }
VI vf v_half(const uint16_t *p) { LANES(fw_half(p[i])); }
VI vf v_half8(const uint16_t *p) { LANES(i < 8 ? fw_half(p[i]) : 0.0f); }
VI vf v_to_half_and_back(vf x) { LANES(fw_half(to_half(x.f[i]))); }
VI vf v_codes(const uint8_t *p, const int bits) { LANES((float)(p[i * bits / 8] >> i * bits % 8 & ((1 << bits) - 1))); }
VI void v_to_half8(uint16_t *p, const float *x) { for (int i = 0; i < 8; i++) p[i] = to_half(x[i]); }
VI vf v_set1(float x) { LANES(x); }
VI vf v_add(vf a, vf b) { LANES(a.f[i] + b.f[i]); }
VI vf v_sub(vf a, vf b) { LANES(a.f[i] - b.f[i]); }
VI vf v_mul(vf a, vf b) { LANES(a.f[i] * b.f[i]); }
VI vf v_div(vf a, vf b) { LANES(a.f[i] / b.f[i]); }
VI vf v_fma(vf a, vf b, vf c) { LANES(fmaf(a.f[i], b.f[i], c.f[i])); }
VI vf v_max(vf a, vf b) { LANES(a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
VI vf v_min(vf a, vf b) { LANES(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
VI vf v_keep(vf x, uint32_t bits, float other) { LANES(bits >> i & 1 ? x.f[i] : other); }
VI vf v_exp(vf x) { LANES(fw_exp(x.f[i])); }
VI vsum vs_zero(void) { return 0; }
VI vsum vs_add(vsum s, vf p) {
    for (int i = 0; i < 16; i++) { /* to the nearest unit: the low bits of a double near 1.5 * 2^52 */
        const double shift = 6755399441055744.0;
        double near = (double)(p.f[i] * FW_SUM_UNITS) + shift;
        uint64_t a, b;
        memcpy(&a, &near, 8), memcpy(&b, &shift, 8);
        s = (int64_t)((uint64_t)s + a - b);
    }
    return s;
}
VI int64_t vs_total(vsum s) { return s; }
VI float v_hmax(vf x) {
    float m = x.f[0];
    for (int i = 1; i < 16; i++) m = x.f[i] > m ? x.f[i] : m;
    return m;
}

/* Lane sums of sixteen vectors, each by the tree (l, l+8), (l, l+4), (l, l+2), (l, l+1). */
VI vf v_trees(const vf *a) {
    vf r;
    for (int j = 0; j < 16; j++) {
        vf t = a[j];
        for (int step = 8; step; step /= 2)
            for (int i = 0; i < step; i++) t.f[i] += t.f[i + step];
        r.f[j] = t.f[0];
    }
    return r;
}

/* to[i * ld_to + j] = rows[j * ld + i] for i, j < 16. */
VI void v_transpose(const float *rows, long ld, float *to, long ld_to) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to[i * ld_to + j] = rows[j * ld + i];
}
