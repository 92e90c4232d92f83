/* The product of a matrix that is stored column after column with a vector that has many zeros:
 * columns that meet a zero are not read.
 *
 * Plain C that the compiler turns into vectors, once for each instruction set; the widest that the
 * processor has is taken when it runs. All give the same bytes.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AT_ONCE 8 /* columns read together: as many streams as a prefetcher follows */
#ifdef _MSC_VER
#define restrict __restrict
#endif

/* Bits of a float. */
static inline float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float of_bf16(uint16_t w) { return as_float((uint32_t)w << 16); }

/* Exact for every value. Without a branch, so that it becomes vectors, and without a float that is
 * denormal, which processors are slow with. */
static inline float of_fp16(uint16_t w)
{
    const uint32_t rest = (uint32_t)(w & 0x7fff) << 13, exponent = rest & 0x0f800000;
    const uint32_t tiny = -(uint32_t)(exponent == 0), huge = -(uint32_t)(exponent == 0x0f800000);
    /* the bias is 127 instead of 15; infinity and NaN; the implicit 1 that denormals lack */
    const uint32_t bits = rest + 0x38000000 + (huge & 0x38000000) + (tiny & 0x00800000);
    const uint32_t size = as_bits(as_float(bits) - as_float(tiny & 0x38800000));
    return as_float(size | (uint32_t)(w & 0x8000) << 16);
}

#define NAME(x) x##_plain
#define TARGET
#include "_columns.h"
#undef NAME
#undef TARGET

#if defined(__x86_64__) && defined(__GNUC__)
#define DISPATCH 1
#define NAME(x) x##_avx2
#define TARGET __attribute__((target("avx2")))
#include "_columns.h"
#undef NAME
#undef TARGET
#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,prefer-vector-width=512")))
#include "_columns.h"
#undef NAME
#undef TARGET
#else
#define DISPATCH 0
#endif

/* The widest vectors that this processor has and `widest` (in bits) allows. */
int sprue_columns_width(int widest)
{
#if DISPATCH
    __builtin_cpu_init();
    if (widest >= 512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return 512;
    if (widest >= 256 && __builtin_cpu_supports("avx2")) return 256;
#endif
    (void)widest;
    return 128;
}

#if DISPATCH
#define WIDEST(kind, ...)                                                                          \
    (width == 512   ? product_##kind##_avx512(__VA_ARGS__)                                         \
     : width == 256 ? product_##kind##_avx2(__VA_ARGS__)                                           \
                    : product_##kind##_plain(__VA_ARGS__))
#else
#define WIDEST(kind, ...) product_##kind##_plain(__VA_ARGS__)
#endif

/* y[first .. last] = sum over i of x[i] * weight[i * out + first .. last].
 *
 * kind: of the weights, 0 float32, 1 bfloat16, 2 float16; width: from sprue_columns_width.
 */
void sprue_columns_product(const void *weight, int kind, int64_t in, int64_t out, const float *x,
                           int64_t first, int64_t last, float *y, int width)
{
    (void)width;
    if (kind == 0)
        WIDEST(f32, weight, in, out, x, first, last, y);
    else if (kind == 1)
        WIDEST(bf16, weight, in, out, x, first, last, y);
    else
        WIDEST(fp16, weight, in, out, x, first, last, y);
}
