/* Packed weights and quantised activations: the two operands of every matrix product here.
 *
 * y[t][o] = unscale * sum over groups g of   xs[t][g] * dot(u[o][g], xq[t][g]) * scale[o][g] + xsum[t][g] * min[o][g]
 *
 * u are the stored unsigned weights, xq the activations rounded to int8 in groups of 32 or 16 inputs with scale xs,
 * xsum = xs * sum(xq); a symmetric matrix has min = -zero * scale. The groups g are the smaller of the weights' and the
 * activations'. The dot is exact in int32; the float sum runs over groups in order with two fma each, so a row's result
 * never depends on the other rows.
 *
 * Weights: strips of 32 outputs, blocks of 32 inputs: [strip][block][half of 16 outputs][lines]. A line is 64 bytes,
 * byte 4 o + i for output o of the half and input i of a quad (4 consecutive inputs; 8 quads a block). 8 bits: 8 lines,
 * one a quad. 4 bits: 4 lines, quad j in the low nibbles of line j, quad j + 4 in the high ones (so in groups of 16 the
 * low nibbles are one group, the high ones the next). 5 and 6 bits: the same 4 lines, then 1 or 2 lines of high bits:
 * with w = bits - 4, quad j's are bits (j w) mod 8 .. + w - 1 of line (j w) / 8. So a half is 64 * bits bytes.
 * scale and min: halves [strip][group][32 outputs]. Padding outputs and inputs are zero everywhere.
 */
#ifndef FW_LINEAR_H
#define FW_LINEAR_H

#include "fewer.h"
#include "fw_math.h"

#define FW_STRIP 32 /* outputs of one strip */
#define FW_BLOCK 32 /* inputs of one block */
#define FW_ROWS 8   /* rows of one activation tile, and of one pass over a strip */

typedef struct {
    const uint8_t *q;
    const uint16_t *scale, *min; /* IEEE halves; min may be NULL: symmetric around `zero` */
    long n, k, strips, blocks;   /* outputs, inputs, ceil(n / 32), ceil(k / 32) */
    int bits, group;             /* (4, 16) (4, 32) (5, 32) (6, 16) (8, 16) or (8, 32) */
    float zero, unscale;
} fw_packed;

/* Activations of `rows` rows in tiles of 8 (the last may be shorter: R rows). With two planes an input row is two of
 * them, itself and what its rounding left over, so it is held to about 15 bits, and its product is the sum of theirs. Tile t begins 8 t `blocks` blocks in;
 * inside, block b has R x 32 codes; scale[1], sum[1]: 2 x R scales and sums of the two halves; scale[0], sum[0]: R of
 * the whole block, only if group is 32 (then both halves have its scale). */
typedef struct {
    int8_t *codes;
    float *scale[2], *sum[2];
    long rows, blocks;
    int group, planes;
} fw_act;

/* Does the product fold its sums by halves of a block (1) or by whole blocks (0)? */
static inline int fw_by_halves(const fw_packed *w, const fw_act *a) { return w->group == 16 || a->group == 16; }

static inline long fw_ceil(long a, long b) { return (a + b - 1) / b; }
static inline long fw_min(long a, long b) { return a < b ? a : b; }
static inline long fw_max(long a, long b) { return a > b ? a : b; }
static inline int fw_tile_rows(const fw_act *a, long tile) { return (int)fw_min(a->rows - tile * FW_ROWS, FW_ROWS); }

static inline int fw_half_bytes(int bits) { return 64 * bits; }
static inline long fw_block_bytes(const fw_packed *w) { return 2 * fw_half_bytes(w->bits); }

/* The stored weight of output o (of 16) and input l (of 32) of one half block: the layout in words of one weight. */
static inline int fw_code(const uint8_t *half, int bits, int o, int l) {
    const int byte = 4 * o + l % 4, w = bits - 4, field = l / 4 * w;
    if (bits == 8) return half[l / 4 * 64 + byte];
    const int low = half[l % 16 / 4 * 64 + byte] >> l / 16 * 4 & 15;
    return w == 0 ? low : low | (half[256 + field / 8 * 64 + byte] >> field % 8 & ((1 << w) - 1)) << 4;
}

/* Where a strip's outputs go: y[row][column], `stride` floats between rows; add: y += them instead of y = them.
 * cached: the strip was read a moment ago, so there is no need to prefetch. */
typedef struct {
    float *y;
    long stride;
    int add, cached;
} fw_out;

/* Outputs 32 strip .. 32 strip + 31 (those below n) of activation tiles [first, first + count); `out` is where the
 * first row's first output goes. One version an instruction set (matmul_*.c). */
typedef void (*fw_strip_fn)(const fw_packed *w, long strip, const fw_act *a, long first, long count, fw_out out);
void fw_strip_plain(const fw_packed *, long, const fw_act *, long, long, fw_out);
void fw_strip_avx2(const fw_packed *, long, const fw_act *, long, long, fw_out);
void fw_strip_avx512(const fw_packed *, long, const fw_act *, long, long, fw_out);

#endif
