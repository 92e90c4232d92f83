/* Reading runs of rows from the stream; included once for each instruction set that has gathers.
 *
 * The state of row t ends at bit start + ((t + 1) * rate >> 3): VEC windows are fetched at once, each
 * from its own four bytes, and looked up.
 */
TARGET static int NAME(run)(const uint8_t *bits, int64_t start, int rate, int from, int count,
                            const float *luts, int L, float *value)
{
    const int64_t first = start + 32 - L;
    const uint8_t *base = bits + (first >> 3);
    const int within = (int)(first & 7);
    NAME(vi) lane;
    for (int i = 0; i < VEC; i++) lane[i] = i;
    int i = 0;
    for (; i + VEC <= count; i += VEC) {
        NAME(vi) t = lane + (from + i);
        NAME(vi) lo = (t * rate) >> EIGHTHS, hi = ((t + 1) * rate) >> EIGHTHS;
        NAME(vi) at = hi + within;
        NAME(vi) word = SWAP(GATHER(base, at >> 3, 1));
        NAME(vi) state = (NAME(vi))((NAME(vu))(word << (at & 7)) >> (32 - L));
        NAME(vi) v = GATHER(luts, ((hi - lo) << L) + state, 4);
        memcpy(value + i, &v, sizeof v);
    }
    return i;
}
