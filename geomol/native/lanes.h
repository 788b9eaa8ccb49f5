/* Vectors of the C that a file is included for: REAL is float or double, NAME(x) gives x a suffix.
 *
 * Vectors of GCC and clang, which become what the processor has.
 */

#define LANES ((int64_t)(64 / sizeof(REAL)))
typedef REAL NAME(Vec) __attribute__((vector_size(64), aligned(sizeof(REAL))));
#define VEC NAME(Vec)

/* The first `width` of the values at a place; zeros for the others. */
static inline VEC NAME(load)(const REAL *from, int64_t width)
{
    if (width >= LANES)
        return *(const VEC *)from;
    VEC out = {0};
    for (int64_t lane = 0; lane < width; lane++)
        out[lane] = from[lane];
    return out;
}

/* Writes the first `width` values. */
static inline void NAME(store)(REAL *to, VEC values, int64_t width)
{
    if (width >= LANES) {
        *(VEC *)to = values;
        return;
    }
    for (int64_t lane = 0; lane < width; lane++)
        to[lane] = values[lane];
}

/* Adds the first `width` values to those at a place. */
static inline void NAME(add)(REAL *to, VEC values, int64_t width)
{
    if (width >= LANES) {
        *(VEC *)to += values;
        return;
    }
    for (int64_t lane = 0; lane < width; lane++)
        to[lane] += values[lane];
}

/* Sum of all values, by halves. */
static inline REAL NAME(total)(VEC values)
{
    typedef REAL Half __attribute__((vector_size(32)));
    typedef REAL Quarter __attribute__((vector_size(16)));
    const union {
        VEC whole;
        Half parts[2];
    } all = {values};
    const union {
        Half whole;
        Quarter parts[2];
    } half = {all.parts[0] + all.parts[1]};
    const Quarter quarter = half.parts[0] + half.parts[1];
    REAL sum = 0;
    for (int64_t lane = 0; lane < LANES / 4; lane++)
        sum += quarter[lane];
    return sum;
}
