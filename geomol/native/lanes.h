/* Vectors of the C that a file is included for: REAL is float or double, NAME(x) gives x a suffix.
 *
 * Vectors of GCC and clang, which become what the processor has.
 */

#ifndef VECTOR_BYTES /* of one register: compilers take larger vectors, but GCC keeps those in memory */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif

#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
typedef REAL NAME(Vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL))));
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

/* Sum of all values. */
static inline REAL NAME(total)(VEC values)
{
    typedef REAL Part __attribute__((vector_size(16)));
    const union {
        VEC whole;
        Part parts[VECTOR_BYTES / 16];
    } all = {values};
    Part sum = all.parts[0];
    for (int i = 1; i < VECTOR_BYTES / 16; i++)
        sum += all.parts[i];
    REAL out = 0;
    for (int lane = 0; lane < (int)(16 / sizeof(REAL)); lane++)
        out += sum[lane];
    return out;
}
