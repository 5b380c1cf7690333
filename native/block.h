/* One transformer layer's packed matrices and norms, and its three fused uses. Shapes: D = width, F = gate outputs.
 *
 *   qkv   n = norm(x); q, k, v = n Wq, n Wk, n Wv (+ bias); q, k = norm_head(q), norm_head(k); rotate q, k
 *   out   x += post(o Wo)
 *   mlp   x += post((act(n Wg) * n Wu) Wd), n = norm(x)
 *
 * Optional pointers are NULL. Norm weights include any offset. Not here: attention, and writing k and v to a cache.
 */
#ifndef FW_BLOCK_H
#define FW_BLOCK_H

#include "matmul.h"

typedef struct {
    fw_packed q, k, v, o, gate, up, down;
    const float *q_bias, *k_bias, *v_bias;
    const float *attn_norm, *mlp_norm, *q_norm, *k_norm, *post_attn_norm, *post_mlp_norm;
    float eps;
    long head_dim;
    int act, planes; /* FW_SILU | FW_GELU; of activations, 1 or 2 */
} fw_block;

/* x (rows, D); cos, sin (rows, head_dim / 2), NULL: no rotation; q (rows, Hq, head_dim), k, v (rows, Hkv, head_dim). */
void fw_block_qkv(const fw_block *, const float *x, long rows, const float *cos, const float *sin, float *q, float *k,
                  float *v);
/* o (rows, Hq * head_dim), x (rows, D) in place. */
void fw_block_out(const fw_block *, const float *o, float *x, long rows);
void fw_block_mlp(const fw_block *, float *x, long rows);

#endif
