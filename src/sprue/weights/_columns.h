/* Sums of columns; included once for each instruction set, by _columns.c.
 *
 * Each y[j] is the same sum in the same order whatever the width of the vectors: they run along j,
 * and nothing is fused. So every instruction set gives the same bytes.
 */
#define WORD float
#define READ(w) (w)
#define KIND(x) NAME(x##_f32)
#include "_columns_of.h"
#undef WORD
#undef READ
#undef KIND
#define WORD uint16_t
#define READ(w) of_bf16(w)
#define KIND(x) NAME(x##_bf16)
#include "_columns_of.h"
#undef READ
#undef KIND
#define READ(w) of_fp16(w)
#define KIND(x) NAME(x##_fp16)
#include "_columns_of.h"
#undef WORD
#undef READ
#undef KIND
