/* Sixteen float lanes as one type `vf`: one AVX-512 register (FW_VEC 2), two AVX2 registers (1) or a plain C array (0).
 *
 * attend_kernels.h is written once on these, compiled once per instruction set. Every set has the same sixteen lanes,
 * the same fused multiply-adds and the same summation trees, so the results are the same bits. The including file
 * defines FW_VEC. Not a general vector library: it has what attention uses.
 */
#ifndef FW_ATTEND_VEC_H
#define FW_ATTEND_VEC_H

#include "fw_math.h"

/* Probabilities (0..1) are summed as integers of 2^-28: exact, hence the same in any order and whatever masked keys lie
 * between. (Each is rounded to 2^-29; a float sum that starts at 1 loses more.) `vsum` holds at most 8 vectors. */
#define FW_SUM_UNITS 268435456.0f

#if FW_X86
/* Sixteen codes of 2, 4 or 8 bits, lowest bits first, as bytes. Reads no byte more. */
static inline __attribute__((always_inline, unused)) __m128i fw_codes16(const uint8_t *p, const int bits) {
    if (bits == 8) return _mm_loadu_si128((const __m128i *)p);
    __m128i x;
    if (bits == 4) x = _mm_loadl_epi64((const __m128i *)p);
    else {
        int32_t word;
        memcpy(&word, p, 4);
        x = _mm_cvtsi32_si128(word);
    }
    const __m128i four = _mm_set1_epi8(15), two = _mm_set1_epi8(3);
    x = _mm_unpacklo_epi8(_mm_and_si128(x, four), _mm_and_si128(_mm_srli_epi16(x, 4), four));
    if (bits == 4) return x;
    return _mm_unpacklo_epi8(_mm_and_si128(x, two), _mm_and_si128(_mm_srli_epi16(x, 2), two));
}
#endif

#if FW_VEC == 2
#include "attend_lanes_avx512.h"
#elif FW_VEC == 1
#include "attend_lanes_avx2.h"
#else
#include "attend_lanes_plain.h"
#endif

#if FW_VEC != 1
/* q . 16 keys of dp values each, all sums in registers. */
VI vf v_dots(const float *q, long dp, const float *keys) {
    vf a[16], x = v_load(q);
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) a[j] = v_mul(x, v_load(keys + j * dp));
    for (long c = 16; c < dp; c += 16) {
        x = v_load(q + c);
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) a[j] = v_fma(x, v_load(keys + j * dp + c), a[j]);
    }
    return v_trees(a);
}
#endif

/* cap * tanh(x / cap), by tanh(z) = 1 - 2 / (e^2z + 1); the second operand of min and max wins on NaN. */
VI vf v_softcap(vf x, float cap) {
    vf z = v_max(v_set1(-20.0f), v_min(v_set1(20.0f), v_div(x, v_set1(cap))));
    vf e = v_add(v_exp(v_add(z, z)), v_set1(1.0f));
    return v_mul(v_sub(v_set1(1.0f), v_div(v_set1(2.0f), e)), v_set1(cap));
}

#endif
