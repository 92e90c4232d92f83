/* One instruction set's Viterbi step; included once for each by _kernels.c, which defines
 * VEC (lanes), NAME(x) (suffix), TARGET (function attribute) and LOWER (lane-wise minimum of
 * integers; costs are not negative, and floats that are not order like their bits).
 *
 * A state is the last L bits of the stream. A step that shifts k bits leads from state s to
 * (s << k | b) mod 2^L, so the predecessors of a state differ in their top k bits only, and the
 * 2^k states that share m = s >> k share the same best predecessor. `best` holds one value for
 * each m; the winner's top bits ride in the low k bits of the float, where they cost 2^-15 of
 * relative precision at most and save the array of back pointers from every comparison.
 */

typedef float NAME(vf) __attribute__((vector_size(4 * VEC), aligned(4)));
typedef int32_t NAME(vi) __attribute__((vector_size(4 * VEC), aligned(4)));
typedef uint8_t NAME(vb) __attribute__((vector_size(VEC), aligned(1)));
typedef uint32_t NAME(vu) __attribute__((vector_size(4 * VEC), aligned(4)));

/* lanes of the vector that holds best[s >> k] for VEC consecutive states, the j-th of 2^k such */
TARGET static inline NAME(vi) NAME(lanes)(int k, int j)
{
    NAME(vi) v;
    for (int i = 0; i < VEC; i++) v[i] = (VEC * j + i) >> k;
    return v;
}

/* best (indexed by s >> ka) and the cost of emitting lut[s] for x -> next (indexed by s' >> kb),
 * and the top bits of each winner -> back */
#define STEP_BODY(KA)                                                                              \
    for (int m = 0; m < M; m += VEC << (KA)) {                                                     \
        NAME(vi) acc[1 << (KA)];                                                                   \
        for (int j = 0; j < 1 << (KA); j++) acc[j] = huge;                                         \
        for (int top = 0; top < n; top++) {                                                        \
            int s = top * M + m;                                                                   \
            NAME(vf) b = *(const NAME(vf) *)(best + (s >> (KA)));                                  \
            for (int j = 0; j < 1 << (KA); j++) {                                                  \
                NAME(vf) d = x - *(const NAME(vf) *)(lut + s + VEC * j);                           \
                NAME(vf) v = __builtin_shuffle(b, NAME(lanes)((KA), j)) + w * (d * d);             \
                NAME(vi) u = ((NAME(vi))v & clear) | top;                                          \
                acc[j] = LOWER(u, acc[j]);                                                         \
            }                                                                                      \
        }                                                                                          \
        for (int j = 0; j < 1 << (KA); j++) {                                                      \
            NAME(vi) won = acc[j] & ~clear;                                                        \
            *(NAME(vb) *)(back + m + VEC * j) = __builtin_convertvector(won, NAME(vb));            \
            *(NAME(vi) *)(next + m + VEC * j) = acc[j] & clear;                                    \
        }                                                                                          \
    }

TARGET static void NAME(step)(const float *best, float *next, uint8_t *back, const float *lut,
                              float x, float w, int L, int ka, int kb)
{
    const int M = 1 << (L - kb), n = 1 << kb;
    const NAME(vi) clear = (NAME(vi)){0} + ~(n - 1);
    const NAME(vi) huge = (NAME(vi)){0} + 0x7f7fffff;
    if (ka == 0 && M >= VEC) {
        STEP_BODY(0)
    } else if (ka == 1 && M >= 2 * VEC) {
        STEP_BODY(1)
    } else if (ka == 2 && M >= 4 * VEC) {
        STEP_BODY(2)
    } else if (ka == 3 && VEC > 8 && M >= 8 * VEC) {
        STEP_BODY(3)
    } else if ((1 << ka) >= VEC && M >= VEC) {
        for (int m = 0; m < M; m += VEC) {
            NAME(vi) acc = huge;
            for (int top = 0; top < n; top++) {
                int s = top * M + m;
                NAME(vf) d = x - *(const NAME(vf) *)(lut + s);
                NAME(vf) v = best[s >> ka] + w * (d * d);
                NAME(vi) u = ((NAME(vi))v & clear) | top;
                acc = LOWER(u, acc);
            }
            *(NAME(vb) *)(back + m) = __builtin_convertvector(acc & ~clear, NAME(vb));
            *(NAME(vi) *)(next + m) = acc & clear;
        }
    } else {
        for (int m = 0; m < M; m++) {
            float low = 0;
            for (int top = 0; top < n; top++) {
                int s = top * M + m;
                float d = x - lut[s], v = best[s >> ka] + w * (d * d);
                int32_t u;
                memcpy(&u, &v, 4);
                u = (u & ~(n - 1)) | top;
                memcpy(&v, &u, 4);
                if (!top || v < low) low = v;
            }
            int32_t u;
            memcpy(&u, &low, 4);
            back[m] = (uint8_t)(u & (n - 1));
            u &= ~(n - 1);
            memcpy(next + m, &u, 4);
        }
    }
}
#undef STEP_BODY

/* keeps costs near 0, where floats are dense; `base` is the least, so that none falls below 0 */
TARGET static void NAME(lower)(float *v, int n, float base)
{
    for (int i = 0; i < n; i++) v[i] -= base;
}

TARGET static float NAME(lowest)(const float *v, int n)
{
    float low = v[0];
    for (int i = 1; i < n; i++) low = v[i] < low ? v[i] : low;
    return low;
}

TARGET static void NAME(axpy)(float *restrict y, const float *restrict x, float a, int n)
{
    for (int i = 0; i < n; i++) y[i] -= a * x[i];
}
