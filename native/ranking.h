/* Which blocks of a kv head a row reads: those worth most, worked out for many rows and heads at once.
 *
 * A block is worth the greatest product of its summary with what the head's queries ask (`bounds`: each query for itself,
 * its positive parts with the first half of the summary, its negative ones with the second; else their sum). Of the blocks
 * [0, first) all are taken, of [first, newest) the `room` worth most (of equals the earlier; what is not a number is worth
 * least), and the entries [tail, end). Places ascend. Those of entries in flight, `held` and on, become held + before[place
 * - held], and held + local, the row itself, comes last.
 *
 * A head of a row is int64 [q, group, d, bounds, summaries, halves, size, first, newest, room, tail, end, before, held,
 * local, out, head, heads, start]: q counts floats from the call's queries to the head's first; summaries, before and out
 * are addresses; out is what attention takes (attend.h, `picked`), where the head's places begin at `start`.
 */
#ifndef FW_RANKING_H
#define FW_RANKING_H

#include <stdint.h>

void fw_rank(const int64_t *heads, long count, const float *q);
const int64_t *fw_rank_at(const int64_t *heads, long n); /* the n-th */

#endif
