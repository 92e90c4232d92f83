/* The same for one type of stored weight: WORD, which READ makes a float. */
TARGET static void KIND(add_one)(const WORD *w, float x, int64_t count, float *restrict y)
{
    for (int64_t j = 0; j < count; j++) y[j] += x * READ(w[j]);
}

/* AT_ONCE columns: y is read and written once for all of them. */
TARGET static void KIND(add_eight)(const WORD *const *w, const float *x, int64_t count,
                                   float *restrict y)
{
    const WORD *a = w[0], *b = w[1], *c = w[2], *d = w[3];
    const WORD *e = w[4], *f = w[5], *g = w[6], *h = w[7];
    const float A = x[0], B = x[1], C = x[2], D = x[3], E = x[4], F = x[5], G = x[6], H = x[7];
    for (int64_t j = 0; j < count; j++) {
        float left = (A * READ(a[j]) + B * READ(b[j])) + (C * READ(c[j]) + D * READ(d[j]));
        float right = (E * READ(e[j]) + F * READ(f[j])) + (G * READ(g[j]) + H * READ(h[j]));
        y[j] += left + right;
    }
}

/* y[first .. last] of all columns whose x is not 0; NaN is not 0. */
TARGET static void KIND(product)(const WORD *weight, int64_t in, int64_t out, const float *x,
                                 int64_t first, int64_t last, float *y)
{
    const WORD *columns[AT_ONCE];
    float factors[AT_ONCE];
    int found = 0;
    memset(y + first, 0, (size_t)(last - first) * sizeof *y);
    for (int64_t i = 0; i < in; i++) {
        columns[found] = weight + i * out + first;
        factors[found] = x[i];
        found += x[i] != 0;
        if (found < AT_ONCE) continue;
        KIND(add_eight)(columns, factors, last - first, y + first);
        found = 0;
    }
    for (int k = 0; k < found; k++) KIND(add_one)(columns[k], factors[k], last - first, y + first);
}
