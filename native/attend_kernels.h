/* The inner loops of attention, on the sixteen lanes of attend_vec.h; attend.h says what each computes.
 *
 * q . k: lane l sums dimensions l, l+16, l+32, ... by fused multiply-adds; the lanes are then added by the tree
 * (l, l+8), (l, l+4), (l, l+2), (l, l+1). `dots` has the lanes in one register; `dots_turned` has keys in the lanes and
 * the sixteen partial sums one after the other. Both do the same operations, so they give the same bits.
 * p . v: one chain of fused multiply-adds per output, in key order.
 */

static FW_TARGET void widen(const void *src, int half, long n, long stride, long cols, long width, float *to) {
    const uint16_t *h = src;
    const float *f = src;
    if (half && cols == stride && cols == width) {
        for (long i = 0; i < n * cols; i += 16) v_store(to + i, v_half(h + i));
        return;
    }
    for (long j = 0, whole = cols & ~15L; j < n; j++, h += stride, f += stride, to += width) {
        for (long i = 0; i < whole; i += 16) v_store(to + i, half ? v_half(h + i) : v_load(f + i));
        if (whole < cols) v_store(to + whole, half ? v_half8(h + whole) : v_load8(f + whole));
    }
}

/* The product is rounded before the sum, as in the torch form: the same numbers whoever decodes. */
VI void unpack_rows(const fw_code_rows *r, float *to, const int bits) {
    const int64_t *x = r->codes;
    const uint8_t *codes = (const uint8_t *)(intptr_t)x[FW_CODE_AT];
    const uint16_t *lows = (const uint16_t *)(intptr_t)x[FW_CODE_LOW], *steps = (const uint16_t *)(intptr_t)x[FW_CODE_STEP];
    const long group = (long)x[FW_CODE_GROUP], groups = (r->d + group - 1) / group;
    const int by_channel = x[FW_CODE_CHANNEL] != 0, round = x[FW_CODE_ROUND] != 0;
    for (long j = 0; j < r->n; j++) {
        const uint8_t *row = codes + (r->entry + j) * r->d * bits / 8;
        long run = by_channel ? ((long)x[FW_CODE_RUNS + r->head] + (r->first + j) / group) * r->d : 0;
        for (long c = r->from, end; c < r->to; c = end) { /* columns of one group */
            end = by_channel || (c / group + 1) * group > r->to ? r->to : (c / group + 1) * group;
            vf low = v_set1(0.0f), step = low;
            if (!by_channel) {
                low = v_set1(fw_half(lows[(r->entry + j) * groups + c / group]));
                step = v_set1(fw_half(steps[(r->entry + j) * groups + c / group]));
            }
            for (; c < end; c += 16, to += 16) {
                if (by_channel) low = v_half(lows + run + c), step = v_half(steps + run + c);
                vf y = v_add(low, v_mul(step, v_codes(row + c * bits / 8, bits)));
                v_store(to, round ? v_to_half_and_back(y) : y);
            }
        }
    }
}

static FW_TARGET void unpack(const fw_code_rows *r, float *to) {
    switch (r->codes[FW_CODE_BITS]) {
        case 2: unpack_rows(r, to, 2); break;
        case 4: unpack_rows(r, to, 4); break;
        default: unpack_rows(r, to, 8);
    }
}

static FW_TARGET void narrow(const float *src, long d, uint16_t *to) {
    for (long i = 0; i < d; i += 8) v_to_half8(to + i, src + i);
}

static FW_TARGET void dots(const float *q, long n, long dp, const float *keys, float *s) {
    for (long i = 0; i < n; i++)
        for (int half = 0; half < FW_BLOCK; half += 16)
            v_store(s + i * FW_BLOCK + half, v_dots(q + i * dp, dp, keys + half * dp));
}

static FW_TARGET void turn(const float *keys, long dp, float *kt) {
    for (long c = 0; c < dp; c += 16)
        for (int j = 0; j < FW_BLOCK; j += 16) v_transpose(keys + j * dp + c, dp, kt + c * FW_BLOCK + j, FW_BLOCK);
}

typedef struct { vf a[FW_DOT_TILE], b[FW_DOT_TILE]; } dot_tile; /* keys 0-15 and 16-31 */

VI dot_tile dot_add(dot_tile x, dot_tile y, const int n) {
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) x.a[r] = v_add(x.a[r], y.a[r]), x.b[r] = v_add(x.b[r], y.b[r]);
    return x;
}

VI dot_tile dot_lane(const float *q, long dp, const float *kt, const int n) {
    dot_tile t;
    vf a = v_load(kt), b = v_load(kt + 16);
    v_pin(a);
    v_pin(b);
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) t.a[r] = v_mul(v_set1(q[r * dp]), a), t.b[r] = v_mul(v_set1(q[r * dp]), b);
    for (long c = 16; c < dp; c += 16) {
        a = v_load(kt + c * FW_BLOCK), b = v_load(kt + c * FW_BLOCK + 16);
        v_pin(a);
        v_pin(b);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) {
            vf x = v_set1(q[r * dp + c]);
            t.a[r] = v_fma(x, a, t.a[r]), t.b[r] = v_fma(x, b, t.b[r]);
        }
    }
    return t;
}

#define LANE(l) dot_lane(q + (l), dp, kt + (l) * FW_BLOCK, n)
#define PAIR(l) dot_add(LANE(l), LANE((l) + 8), n)
#define QUAD(l) dot_add(PAIR(l), PAIR((l) + 4), n)
#define OCTET(l) dot_add(QUAD(l), QUAD((l) + 2), n)

VI void dot_rows(const float *q, long dp, const float *kt, float *s, const int n) {
    dot_tile t = dot_add(OCTET(0), OCTET(1), n);
#pragma GCC unroll 4
    for (int r = 0; r < n; r++) v_store(s + r * FW_BLOCK, t.a[r]), v_store(s + r * FW_BLOCK + 16, t.b[r]);
}

static FW_TARGET void dots_turned(const float *q, long n, long dp, const float *kt, float *s) {
    long i = 0;
    for (; i + FW_DOT_TILE <= n; i += FW_DOT_TILE) dot_rows(q + i * dp, dp, kt, s + i * FW_BLOCK, FW_DOT_TILE);
    for (; i < n; i++) dot_rows(q + i * dp, dp, kt, s + i * FW_BLOCK, 1);
}

static FW_TARGET void settle(float *s, long rows, long heads, const uint32_t *mask, float softcap, float *max) {
    for (long i = 0; i < rows * heads; i++, s += FW_BLOCK, max += 16) {
        vf a = v_load(s), b = v_load(s + 16);
        if (softcap > 0.0f) a = v_softcap(a, softcap), b = v_softcap(b, softcap);
        if (mask) {
            uint32_t bits = mask[i / heads];
            a = v_keep(a, bits & 0xffff, -INFINITY), b = v_keep(b, bits >> 16, -INFINITY);
        }
        if (mask || softcap > 0.0f) v_store(s, a), v_store(s + 16, b);
        v_store(max, v_max(v_max(a, b), v_load(max)));
    }
}

static FW_TARGET void soften(const float *s, long ld, long n, long blocks, const float *max, int64_t *sum, float *p) {
    for (long i = 0; i < n; i++, s += FW_BLOCK, p += blocks * FW_BLOCK) {
        vf m = v_set1(max[i]);
        vsum t = vs_zero();
        for (long j = 0; j < blocks; j++) {
            vf x = v_exp(v_sub(v_load(s + j * ld), m)), y = v_exp(v_sub(v_load(s + j * ld + 16), m));
            v_store(p + j * FW_BLOCK, x), v_store(p + j * FW_BLOCK + 16, y);
            t = vs_add(vs_add(t, x), y);
        }
        sum[i] += vs_total(t);
    }
}

typedef struct { const float *p, *v; float *acc; long ldp, ldv, ld, keys; } mixture; /* acc[i] += sum_j p[i][j] v[j] */

VI void mix_tile(const mixture *m, const int n, const int wide) {
    vf a[FW_MAX_TILE][FW_MAX_WIDE], x[FW_MAX_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (int w = 0; w < wide; w++) a[r][w] = v_load(m->acc + r * m->ld + 16 * w);
    for (long j = 0; j < m->keys; j++) {
#pragma GCC unroll 4
        for (int w = 0; w < wide; w++) x[w] = v_load(m->v + j * m->ldv + 16 * w);
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) {
            vf y = v_set1(m->p[r * m->ldp + j]);
#pragma GCC unroll 4
            for (int w = 0; w < wide; w++) a[r][w] = v_fma(y, x[w], a[r][w]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n; r++)
#pragma GCC unroll 4
        for (int w = 0; w < wide; w++) v_store(m->acc + r * m->ld + 16 * w, a[r][w]);
}

#define MIX_CASE(n) case n: mix_tile(&m, n, wide); break

VI void mix_strip(mixture m, long n, const int wide) {
    long tiles = (n + FW_MAX_TILE - 1) / FW_MAX_TILE;
    for (long t = 0; t < tiles; t++) {
        int rows = (int)(n * (t + 1) / tiles - n * t / tiles);
        switch (rows) {
            MIX_CASE(1);
#if FW_MAX_TILE > 1
            MIX_CASE(2);
            MIX_CASE(3);
#endif
#if FW_MAX_TILE > 3
            MIX_CASE(4);
            MIX_CASE(5);
            MIX_CASE(6);
#endif
        }
        m.p += rows * m.ldp, m.acc += rows * m.ld;
    }
}

static FW_TARGET void mix(const float *p, long ldp, long n, const float *v, long ldv, long keys, float *acc,
                          long width) {
    long i = 0;
    for (; i + 16 * FW_MAX_WIDE <= width; i += 16 * FW_MAX_WIDE)
        mix_strip((mixture){p, v + i, acc + i, ldp, ldv, width, keys}, n, FW_MAX_WIDE);
    for (; i + 32 <= width; i += 32) mix_strip((mixture){p, v + i, acc + i, ldp, ldv, width, keys}, n, 2);
    for (; i < width; i += 16) mix_strip((mixture){p, v + i, acc + i, ldp, ldv, width, keys}, n, 1);
}

static FW_TARGET float top(const float *lanes) { return v_hmax(v_load(lanes)); }

#define FW_ATTEND_KERNELS \
    {widen, unpack, narrow, dots, turn, dots_turned, settle, soften, mix, top, FW_SUM_UNITS, FW_FEW}
