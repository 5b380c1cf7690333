/* What the attention files share: the arguments of a call and one table of kernels per instruction set. */
#ifndef FW_ATTEND_H
#define FW_ATTEND_H

#include <stdint.h>

#define FW_BLOCK 32      /* keys scored at once */
#define FW_MOST_BLOCKS 4 /* blocks mixed at once */

/* A segment's row in a sequence's table: int64 [k, v, pos, dtype, start_0..start_H-1, len_0..len_H-1]; see attend.c.
 * Entries are floats, halves or codes; of codes k and v are addresses of descriptors. */
enum { FW_SEG_K, FW_SEG_V, FW_SEG_POS, FW_SEG_DTYPE, FW_SEG_HEADS };
enum { FW_FLOATS, FW_HALVES, FW_CODES };

/* A descriptor of codes, int64: x = low + step * code, rounded to half if `round`. Codes of 2, 4 or 8 bits lie as (E, d),
 * lowest bits first. low, step, halves: of each entry and `group` columns, (E, ceil(d / group)); or, with `channel`, of
 * each column and `group` entries, (runs, d), head h's runs beginning at runs_h. d and group are multiples of 16, or one
 * group has all columns. */
enum { FW_CODE_AT, FW_CODE_LOW, FW_CODE_STEP, FW_CODE_BITS, FW_CODE_GROUP, FW_CODE_CHANNEL, FW_CODE_ROUND, FW_CODE_RUNS };

/* Which codes: rows `entry`.. of the arrays, which are first.. of their head; columns from..to-1, multiples of 16. */
typedef struct {
    const int64_t *codes;
    long head, entry, first, n, d, from, to;
} fw_code_rows;

/* The rows of a step: sequence s owns rows row_start[s]..row_start[s+1]-1 and the table tables[s] of nseg[s] rows. */
typedef struct {
    long n_seq, n_kv_heads, d;
    const int64_t *row_start, *nseg;
    const int64_t *const *tables;
    const int32_t *pos; /* of each row */
} fw_rows;

typedef struct {
    fw_rows rows;
    const float *q; /* (T, n_heads, d) */
    float *o;       /* (T, n_heads, d) */
    float *lse;     /* (T, n_heads) or NULL */
    float *mass;    /* (slots, mass_heads, mass_keys) or NULL; mass_heads: n_heads, or n_kv_heads for sums of their queries */
    const int64_t *mass_slot; /* (T,): slot of a row, or -1 */
    long mass_heads, mass_keys;
    const int64_t *staged; /* in-flight entries behind the committed ones of each sequence's last segment */
    const uint8_t *const *visible; /* NULL, or per sequence NULL (causal, staged = rows) or a (rows, staged) matrix */
    /* NULL, or per sequence NULL or [ends of head 0 .. H-1, places of head 0, of head 1, ..]: what its rows read, and
     * nothing else. Places ascend; in-flight entries are counted behind the committed ones. */
    const int64_t *const *picked;
    long n_heads, window;
    float scale, softcap;
} fw_attend_call;

/* dp: head size rounded up to 16; n: queries, or rows. Scores of a block of keys are (n, 32). */
typedef struct {
    /* n rows of `cols` floats (or halves), `stride` apart -> n rows of `width` floats, zeros after cols. */
    void (*widen)(const void *src, int half, long n, long stride, long cols, long width, float *to);
    void (*unpack)(const fw_code_rows *rows, float *to); /* n rows of to - from floats */
    void (*narrow)(const float *src, long d, uint16_t *to);
    /* s[i][0..31] = q[i] . keys[0..31]: from keys as they are, or through kt (dp, 32), their transpose. */
    void (*dots)(const float *q, long n, long dp, const float *keys, float *s);
    void (*turn)(const float *keys, long dp, float *kt);
    void (*dots_turned)(const float *q, long n, long dp, const float *kt, float *s);
    /* Soft cap, -inf where the row's mask has a 0 bit, running maxima (16 lanes a query). */
    void (*settle)(float *s, long rows, long heads, const uint32_t *mask, float softcap, float *max);
    /* p = e^(s - max), (n, blocks, 32), of up to FW_MOST_BLOCKS blocks, `ld` floats apart; sum += p, in units. */
    void (*soften)(const float *s, long ld, long n, long blocks, const float *max, int64_t *sum, float *p);
    /* acc[i] += sum over keys, in key order, of p[i][key] * v[key]: `width` columns, a multiple of 16, also acc's. */
    void (*mix)(const float *p, long ldp, long n, const float *v, long ldv, long keys, float *acc, long width);
    float (*top)(const float *lanes); /* the largest of 16 */
    double sum_units;                 /* one = this many */
    long few;                         /* up to this many queries, turning keys costs more than it saves */
} fw_attend_kernels;

extern const fw_attend_kernels fw_attend_plain;
#if defined(__x86_64__)
extern const fw_attend_kernels fw_attend_avx2, fw_attend_avx512;
#endif
const fw_attend_kernels *fw_attend_pick(void);

int fw_picks_ok(const fw_attend_call *call); /* 0: places that do not ascend or are not there */
#define FW_PICKS_WRONG "picked places must ascend and lie among the entries of their kv-head"
void fw_attend(const fw_attend_call *call);
void fw_append(const fw_rows *rows, const float *k, const float *v);

#endif
