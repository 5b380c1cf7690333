/* Operations on one row of activations, written once in portable C with fixed 16-lane sums; rowops.c compiles them for
 * each instruction set and the compiler vectorises the lanes, so all versions give the same bits.
 *
 * RMSNorm: y = x / sqrt(mean(x^2) + eps) * w. Rotary pairs are (i, i + d/2). Quantisation: see linear.h; a block whose
 * largest magnitude is below 2^-100 counts as zero, so the reciprocal of the scale stays finite; NaN and infinity make
 * the scale, and so the results of that row, NaN or infinite.
 */
#ifndef FW_ROWOPS_H
#define FW_ROWOPS_H

#include "linear.h"

/* Gated activation functions. */
enum { FW_SILU = 0, FW_GELU = 1 };

typedef struct {
    /* 1 / rms(x) over k values */
    float (*inv_rms)(const float *x, long k, float eps);
    /* y = x * inv * w; y may be x */
    void (*scale)(float *y, const float *x, const float *w, float inv, long k);
    /* quantise x * inv * w (w NULL: x as it is) into row `row` of `a` */
    void (*quantise)(const fw_act *a, long row, const float *x, const float *w, float inv, long k);
    /* quantise 32 values into block b of row `row`, in all planes */
    void (*block)(const fw_act *a, long row, long b, const float *x);
    /* g = act(g) * u, n values */
    void (*gate)(int act, float *g, const float *u, long n);
    /* y += x */
    void (*add)(float *y, const float *x, long n);
    /* rotate one head of d values in place with d/2 cosines and sines */
    void (*rope)(float *x, const float *cos, const float *sin, long d);
    /* y = row `row` of w as floats, k values */
    void (*dequantise)(const fw_packed *w, long row, float *y);
} fw_rowops;

const fw_rowops *fw_row(void);
fw_strip_fn fw_strip(void);

#endif
