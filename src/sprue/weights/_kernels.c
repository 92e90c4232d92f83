/* Kernels of the trellis grid: the Viterbi search inside the error-feedback sweep, and decoding.
 *
 * Plain C with no dependency: loaded through ctypes. Every function has a slow twin in
 * trellis_reference.py that gives the same bytes; floating-point contraction is off for that.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SHIFT 8
#define EIGHTHS 3 /* rates are counted in 1/8 bit */
#define RENORMALIZE 16
#define LINE 64 /* bytes */
#ifndef WIDEST
#define WIDEST 512 /* bits of the widest vectors used; tests build narrower ones */
#endif

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define DISPATCH 1
#include <immintrin.h>
#define REVERSED 0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203 /* bytes of each word */
#else
#define DISPATCH 0
#endif

#define NAME(x) x##_base
#define VEC 4
#define TARGET
#define LOWER(a, b) (((a) & ((a) < (b))) | ((b) & ~((a) < (b))))
#include "_viterbi.h"
#undef NAME
#undef VEC
#undef TARGET
#undef LOWER

#if DISPATCH
#define NAME(x) x##_avx2
#define VEC 8
#define TARGET __attribute__((target("avx2")))
#define LOWER(a, b) (vi_avx2) _mm256_min_epi32((__m256i)(a), (__m256i)(b))
#define GATHER(p, at, scale) (vi_avx2) _mm256_i32gather_epi32((const int *)(p), (__m256i)(at), scale)
#define SWAP(v)                                                                                    \
    (vi_avx2) _mm256_shuffle_epi8((__m256i)(v), _mm256_set_epi32(REVERSED, REVERSED))
#include "_viterbi.h"
#include "_decode.h"
#undef GATHER
#undef SWAP
#undef NAME
#undef VEC
#undef TARGET
#undef LOWER
#define NAME(x) x##_avx512
#define VEC 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#define LOWER(a, b) (vi_avx512) _mm512_min_epi32((__m512i)(a), (__m512i)(b))
#define GATHER(p, at, scale) (vi_avx512) _mm512_i32gather_epi32((__m512i)(at), (p), scale)
#define SWAP(v)                                                                                    \
    (vi_avx512) _mm512_shuffle_epi8((__m512i)(v), _mm512_set4_epi32(REVERSED))
#include "_viterbi.h"
#include "_decode.h"
#undef GATHER
#undef SWAP
#undef NAME
#undef VEC
#undef TARGET
#undef LOWER
#endif

typedef struct {
    void (*step)(const float *, float *, uint8_t *, const float *, float, float, int, int, int);
    void (*lower)(float *, int, float);
    float (*lowest)(const float *, int);
    void (*axpy)(float *restrict, const float *restrict, float, int);
    int (*run)(const uint8_t *, int64_t, int, int, int, const float *, int, float *);
} ops_t;

static ops_t pick(void)
{
#if DISPATCH
    if (WIDEST >= 512 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return (ops_t){step_avx512, lower_avx512, lowest_avx512, axpy_avx512, run_avx512};
    if (WIDEST >= 256 && __builtin_cpu_supports("avx2"))
        return (ops_t){step_avx2, lower_avx2, lowest_avx2, axpy_avx2, run_avx2};
#endif
    return (ops_t){step_base, lower_base, lowest_base, axpy_base, NULL};
}

/* bits that row t of a column of rate r (in eighths) adds to the stream */
static inline int shift_of(int t, int r)
{
    return (((t + 1) * r) >> EIGHTHS) - ((t * r) >> EIGHTHS);
}

typedef struct {
    void *room;
    float *a, *b, *luts; /* in `room`, at the start of a cache line, where vectors are read fastest */
    uint8_t *back;
    size_t *offset;
    uint8_t *shift;
    float *x;
} work_t;

static void release(work_t *k)
{
    free(k->room); free(k->back); free(k->offset); free(k->shift); free(k->x);
}

static int reserve(work_t *k, int T, int L, size_t back)
{
    memset(k, 0, sizeof *k);
    k->room = malloc(((MAX_SHIFT + 3) * sizeof(float) << L) + LINE);
    k->a = (float *)(((uintptr_t)k->room + LINE - 1) / LINE * LINE);
    k->b = k->a + ((size_t)1 << L);
    k->luts = k->b + ((size_t)1 << L);
    k->back = malloc(back ? back : 1);
    k->offset = malloc(sizeof(size_t) * T);
    k->shift = malloc(T);
    k->x = malloc(sizeof(float) * T);
    if (k->room && k->back && k->offset && k->shift && k->x) return 0;
    release(k);
    return -1;
}

static size_t back_bytes(int T, int L, int r)
{
    size_t n = 0;
    for (int t = 0; t < T; t++) n += (size_t)1 << (L - shift_of(t, r));
    return n;
}

/* the cheapest path for k->x under weights w; states out; *state is where it starts and ends */
static void viterbi(const ops_t *ops, work_t *k, int T, const float *luts, int L, int r,
                    const float *w, uint32_t *state, uint16_t *states)
{
    size_t at = 0;
    float *best = k->a, *next = k->b;
    int ka = shift_of(0, r);
    for (int i = 0; i < 1 << (L - ka); i++) best[i] = 1e30f;
    /* from the known start, the first step leads to the states that share its low L-k bits */
    best[*state & ((1u << (L - ka)) - 1)] = 0;
    for (int t = 0; t < T; t++) {
        k->shift[t] = (uint8_t)ka;
        if (t + 1 == T) break;
        int kb = shift_of(t + 1, r);
        ops->step(best, next, k->back + at, luts + ((size_t)ka << L), k->x[t], w[t], L, ka, kb);
        int M = 1 << (L - kb);
        if (t % RENORMALIZE == RENORMALIZE - 1) ops->lower(next, M, ops->lowest(next, M));
        k->offset[t + 1] = at;
        at += (size_t)M;
        float *swap = best; best = next; next = swap;
        ka = kb;
    }
    const float *lut = luts + ((size_t)ka << L);
    float low = 0;
    uint32_t s = 0;
    for (int i = 0; i < 1 << L; i++) {
        float d = k->x[T - 1] - lut[i], v = best[i >> ka] + w[T - 1] * (d * d);
        if (!i || v < low) { low = v; s = (uint32_t)i; }
    }
    *state = s;
    for (int t = T - 1; t >= 0; t--) {
        states[t] = (uint16_t)s;
        if (!t) break;
        uint32_t m = s >> k->shift[t];
        s = ((uint32_t)k->back[k->offset[t] + m] << (L - k->shift[t])) | m;
    }
}

/* index of the step nearest in ratio to the root of `square` */
static int nearest(const float *steps, int count, double square)
{
    int i = 0;
    while (i + 1 < count && square > (double)steps[i] * steps[i + 1]) i++;
    return i;
}

/* The rows that a column keeps, ascending, from its mask (one bit a row, least first); how many. */
static int kept(const uint8_t *mask, int T, int32_t *at)
{
    int n = 0;
    for (int t = 0; t < T; t++) { /* written always, counted where kept: no branch to mispredict */
        at[n] = t;
        n += mask[t >> 3] >> (t & 7) & 1;
    }
    return n;
}

/* Error-feedback sweep over the n columns of one block, in order.
 *   Wt [n, T]   weights, column-major; on return the quantized values
 *   E  [n, T]   out: the error of each column over U[j, j]
 *   U  [n, n]   upper factor of the inverse second moment, U^T U = H^-1
 *   rate [n]    in eighths of a bit, < 0: the column is all zeros
 *   steps [steps_count] the steps that can be stored, ascending; code [n] out: which one a column took
 *   row [T]     step of each row; weight [T] importance of each row's error
 *   luts [9, 2^L] value of each state by the number of bits shifted
 *   state       in and out: the last L bits of the stream
 *   mask [n, (T + 7) / 8] what is not zero, or NULL: all; a path runs along what it keeps
 *   states [n, T] out, of the rows that are kept
 * Returns 0, or -1 when memory is short. */
int sprue_trellis_sweep(float *Wt, float *E, const float *U, int n, int T, const int32_t *rate,
                        const float *steps, int steps_count, int32_t *code,
                        const float *row, const float *weight, const float *luts, int L,
                        uint32_t *state, const uint8_t *mask, uint16_t *states)
{
    const ops_t ops = pick();
    const int stride = (T + 7) / 8;
    work_t k;
    size_t back = 0;
    for (int j = 0; j < n; j++) {
        size_t b = rate[j] < 0 ? 0 : back_bytes(T, L, rate[j]);
        back = b > back ? b : back;
    }
    int32_t *at = malloc(sizeof(int32_t) * T);
    float *own = malloc(sizeof(float) * T); /* weights of the rows that are kept */
    if (!at || !own || reserve(&k, T, L, back)) {
        free(at);
        free(own);
        return -1;
    }
    for (int t = 0; t < T; t++) at[t] = t;
    memcpy(k.luts, luts, (MAX_SHIFT + 1) * sizeof(float) << L);
    luts = k.luts;
    for (int j = 0; j < n; j++) {
        float *w = Wt + (size_t)j * T, *e = E + (size_t)j * T;
        uint16_t *st = states + (size_t)j * T;
        float inverse = 1.0f / U[(size_t)j * n + j];
        int count = rate[j] < 0 ? 0 : mask ? kept(mask + (size_t)j * stride, T, at) : T;
        if (!count) {
            code[j] = 0;
            memset(st, 0, sizeof(uint16_t) * T);
            for (int t = 0; t < T; t++) { e[t] = w[t] * inverse; w[t] = 0; }
        } else {
            /* feedback has changed the column's spread: its step is chosen here, not before */
            double square = 0, cross = 0, power = 0;
            for (int i = 0; i < count; i++) {
                own[i] = weight[at[i]];
                k.x[i] = w[at[i]] / row[at[i]];
                square += (double)k.x[i] * k.x[i];
            }
            float step = steps[nearest(steps, steps_count, square / count)];
            for (int i = 0; i < count; i++) k.x[i] /= step;
            viterbi(&ops, &k, count, luts, L, rate[j], own, state, st);
            for (int i = 0; i < count; i++) {
                double q = luts[((size_t)k.shift[i] << L) + st[i]];
                cross += own[i] * q * k.x[i];
                power += own[i] * q * q;
            }
            double fit = power > 0 && cross > 0 ? step * (cross / power) : step;
            code[j] = nearest(steps, steps_count, fit * fit);
            step = steps[code[j]];
            for (int i = 0; i < count; i++)
                k.x[i] = luts[((size_t)k.shift[i] << L) + st[i]] * (step * row[at[i]]);
            for (int t = 0, i = 0; t < T; t++) {
                float q = i < count && at[i] == t ? k.x[i++] : 0;
                e[t] = (w[t] - q) * inverse;
                w[t] = q;
            }
        }
        for (int i = j + 1; i < n; i++) ops.axpy(Wt + (size_t)i * T, e, U[(size_t)j * n + i], T);
    }
    release(&k);
    free(at);
    free(own);
    return 0;
}

/* the state whose window ends before bit `end` of the stream; 4 bytes lead it, 8 follow it */
static inline uint32_t window(const uint8_t *bits, int64_t end, int L)
{
    int64_t first = end + 32 - L;
    const uint8_t *p = bits + (first >> 3);
    uint64_t v = (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 |
                 (uint64_t)p[3] << 32;
    return (uint32_t)((v << (first & 7)) >> (64 - L));
}

/* Append the bits that n columns of states [n, T] add, from bit `at` on; bits are zeroed before. Of
 * column j the first count[j] states stand in the stream. Returns the bit after the last. */
int64_t sprue_trellis_pack(const uint16_t *states, int n, int T, const int32_t *count,
                           const int32_t *rate, int64_t at, uint8_t *bits)
{
    int64_t b = at + 32;
    for (int j = 0; j < n; j++) {
        if (rate[j] < 0) continue;
        for (int t = 0; t < count[j]; t++)
            for (int k = shift_of(t, rate[j]) - 1; k >= 0; k--, b++)
                bits[b >> 3] |= (uint8_t)(((states[(size_t)j * T + t] >> k) & 1) << (7 - (b & 7)));
    }
    return b - 32;
}

/* Values of the given rows of one column, without steps: value [count]. */
static void column(const ops_t *ops, const uint8_t *bits, int64_t start, int rate,
                   const int32_t *rows, int count, const float *luts, int L, float *value)
{
    int i = 0;
    if (ops->run && rows[count - 1] - rows[0] == count - 1) /* ascending, without gaps */
        i = ops->run(bits, start, rate, rows[0], count, luts, L, value);
    for (; i < count; i++) {
        int t = rows[i], lo = (t * rate) >> EIGHTHS, hi = ((t + 1) * rate) >> EIGHTHS;
        value[i] = luts[((size_t)(hi - lo) << L) + window(bits, start + hi, L)];
    }
}

/* The given rows of a segment, ascending: out [n, count], column-major.
 *   start [n]  first bit of each column; col [n] steps; row [count] steps of the given rows */
void sprue_trellis_decode(const uint8_t *bits, int n, const int32_t *rows, int count,
                          const int64_t *start, const float *col, const int32_t *rate,
                          const float *row, const float *luts, int L, float *out)
{
    const ops_t ops = pick();
    for (int j = 0; j < n; j++) {
        float *o = out + (size_t)j * count;
        if (rate[j] < 0) {
            memset(o, 0, sizeof(float) * count);
            continue;
        }
        column(&ops, bits, start[j], rate[j], rows, count, luts, L, o);
        for (int i = 0; i < count; i++) o[i] *= col[j] * row[i];
    }
}

/* y [batch, stride] = x [batch, n] times the transpose of the given rows; row i's product goes to
 * y[.., place[i]]. Returns 0, or -1 when memory is short. */
int sprue_trellis_matmul(const uint8_t *bits, int n, const int32_t *rows, int count,
                         const int64_t *start, const float *col, const int32_t *rate,
                         const float *row, const float *luts, int L, const float *x, int batch,
                         const int32_t *place, int stride, float *y)
{
    const ops_t ops = pick();
    float *value = malloc(sizeof(float) * count);
    float *sum = calloc((size_t)batch * count, sizeof(float));
    if (!value || !sum) {
        free(value);
        free(sum);
        return -1;
    }
    for (int j = 0; j < n; j++) {
        if (rate[j] < 0) continue;
        column(&ops, bits, start[j], rate[j], rows, count, luts, L, value);
        for (int b = 0; b < batch; b++)
            ops.axpy(sum + (size_t)b * count, value, -(x[(size_t)b * n + j] * col[j]), count);
    }
    for (int b = 0; b < batch; b++)
        for (int i = 0; i < count; i++)
            y[(size_t)b * stride + place[i]] = sum[(size_t)b * count + i] * row[i];
    free(value);
    free(sum);
    return 0;
}

/* A whole segment of T rows of which each column keeps those in its mask [n, (T + 7) / 8]: out
 * [n, T], column-major. The other arguments as for sprue_trellis_decode. Returns 0, or -1 when memory
 * is short. */
int sprue_trellis_decode_masked(const uint8_t *bits, int n, const int32_t *rows, int T,
                                const int64_t *start, const float *col, const int32_t *rate,
                                const float *row, const float *luts, int L, const uint8_t *mask,
                                float *out)
{
    const ops_t ops = pick();
    const int stride = (T + 7) / 8;
    int32_t *at = malloc(sizeof(int32_t) * T);
    float *value = malloc(sizeof(float) * T);
    if (!at || !value) {
        free(at);
        free(value);
        return -1;
    }
    memset(out, 0, sizeof(float) * n * T);
    for (int j = 0; j < n; j++) {
        float *o = out + (size_t)j * T;
        int count = rate[j] < 0 ? 0 : kept(mask + (size_t)j * stride, T, at);
        if (!count) continue;
        column(&ops, bits, start[j], rate[j], rows, count, luts, L, value);
        for (int i = 0; i < count; i++) o[at[i]] = value[i] * (col[j] * row[at[i]]);
    }
    free(at);
    free(value);
    return 0;
}

/* y [batch, stride] = x [batch, n] times the transpose of such a segment; `rows` are 0, 1 .. T - 1.
 * Returns 0, or -1 when memory is short. */
int sprue_trellis_matmul_masked(const uint8_t *bits, int n, const int32_t *rows, int T,
                                const int64_t *start, const float *col, const int32_t *rate,
                                const float *row, const float *luts, int L, const uint8_t *mask,
                                const float *x, int batch, const int32_t *place, int stride,
                                float *y)
{
    const ops_t ops = pick();
    const int bytes = (T + 7) / 8;
    int32_t *at = malloc(sizeof(int32_t) * T);
    float *value = malloc(sizeof(float) * T);
    float *sum = calloc((size_t)batch * T, sizeof(float));
    if (!at || !value || !sum) {
        free(at);
        free(value);
        free(sum);
        return -1;
    }
    for (int j = 0; j < n; j++) {
        int count = rate[j] < 0 ? 0 : kept(mask + (size_t)j * bytes, T, at);
        if (!count) continue;
        column(&ops, bits, start[j], rate[j], rows, count, luts, L, value);
        for (int b = 0; b < batch; b++) {
            float *s = sum + (size_t)b * T, f = x[(size_t)b * n + j] * col[j];
            for (int i = 0; i < count; i++) s[at[i]] += value[i] * f;
        }
    }
    for (int b = 0; b < batch; b++)
        for (int t = 0; t < T; t++)
            y[(size_t)b * stride + place[t]] = sum[(size_t)b * T + t] * row[t];
    free(at);
    free(value);
    free(sum);
    return 0;
}
