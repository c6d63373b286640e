/* Forward selective scans on a CPU in float32: SS2D (VMamba, arXiv 2401.10166, section 4.2), the two directions of Vim
(arXiv 2401.09417), the states of Spatial-Mamba (arXiv 2410.15091).

For each direction k and each step t, with p = order[k][t]:
    dt = softplus(bias + weight . code[p]),  h = exp(dt a) h + dt u[p] b[p],  y[p] += c[p] h
Rows are read and results added in place; step sizes are kept in registers and one small buffer, so nothing of the
size of all scans is ever stored. Computation is in base 2: weight and bias come multiplied by log2(e), so softplus
gives dt log2(e), which is the exponent that the power of two needs; only the drive has to be corrected, by ln(2).

Where `columns` names row lengths, a scan is two-dimensional (2DMamba, arXiv 2412.00678): along each row from a state
of zero, r = exp(dt a) r + dt u b, and down each column over that, h = exp(dt a) h(row above) + r.

Written with the vector extensions of GCC and Clang; the vector width is that of the machine on which _c_scan.py
compiles this file. One task is one image and one block of channels; no two tasks write to the same memory, so results
do not depend on the number of threads. */

#include <stdint.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define STEPS 4 /* step sizes computed together: each weight is loaded once, and STEPS x width sums fit in registers */
#define inlined static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t length, channels, rank, states, directions, groups;
    int64_t width;          /* vectors of channels that one task scans together: 1 to 4, 1 in two dimensions */
    const float *x;         /* [B, groups, L, D]; groups is directions, or 1 if all directions read the same rows */
    const float *projected; /* [B, L, directions, R + 2 S]: code, b, c of each position and direction */
    const float *weight;    /* [directions, D / block, R, block], block = width * LANES; times log2(e) */
    const float *bias;      /* [directions, D], times log2(e) */
    const float *a;         /* [directions, S, D] */
    const float *skip;      /* [groups, D] */
    const int64_t *order;   /* [directions, L]: direction k visits row order[k, t] at step t */
    const int64_t *columns; /* [directions], row lengths of two-dimensional scans; null for one-dimensional ones */
    float *y;               /* [B, L, D], the sum over the directions */
} Scan;

inlined vec load(const float *p) { return *(const vec *)p; }
inlined vec all(float x) { return x - (vec){0}; }
inlined vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

#if defined(__AVX512F__)
#define LARGER(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#elif defined(__AVX__)
#define LARGER(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#else
#define LARGER(a, b) choose((a) > (b), a, b)
#endif

/* 2**x for x <= 0, clamped at 2**-126, which is negligible next to what it is added to. A NaN step size reaches the
   output through the drive, whatever this function makes of it. */
inlined vec power(vec x) {
    x = LARGER(all(-126.0f), x);
    vec shifted = x + 12582912.0f; /* adding 1.5 * 2**23 leaves n = round(x) in the low bits of the mantissa */
    vec r = x - (shifted - 12582912.0f);
    vec p = 0.240226509f + r * (0.055503571f + r * (0.00961805667f + r * (0.00133908674f + r * 0.000154614475f)));
    vec value = 1.0f + r * (0.693147188f + r * p);
    return (vec)((ivec)value + ((ivec)shifted << 23));
}

/* log2(1 + 2**x), through e = 2**-|x| <= 1, so that it neither overflows nor loses small values */
inlined vec softplus(vec x) {
    vec e = power((vec)((ivec)x | INT32_MIN)); /* setting the sign bit gives -|x| */
    vec s = e / (2.0f + e);
    vec z = s * s; /* log(1 + e) = 2 atanh(s) */
    vec log1p = 2.88539009f + z * (0.961791634f + z * (0.57743658f + z * (0.403398003f + z * 0.406474383f)));
    return LARGER(all(0.0f), x) + s * log1p;
}

/* Compute bias + weight . code for STEPS positions; fully unrolled, so that the sums stay in registers. */
inlined void project(
    const float *const *code, const float *weight, const float *bias, int64_t rank, vec *dt, const int width) {
    vec sum[STEPS * width];
#pragma GCC unroll 32
    for (int n = 0; n < STEPS * width; n++) sum[n] = load(bias + n % width * LANES);
    for (int64_t r = 0; r < rank; r++) {
        vec w[4];
#pragma GCC unroll 4
        for (int i = 0; i < width; i++) w[i] = load(weight + (r * width + i) * LANES);
#pragma GCC unroll 32
        for (int n = 0; n < STEPS * width; n++) sum[n] += code[n / width][r] * w[n % width];
    }
#pragma GCC unroll 32
    for (int n = 0; n < STEPS * width; n++) dt[n] = sum[n];
}

/* Scan one image in all directions for one block of channels. `state` is the scan's state, S x width vectors; for a
   two-dimensional scan, S x width vectors for the row, followed by as many for each column of the row above. */
inlined void scan(
    const Scan *t, int64_t image, int64_t first, vec *state, const int64_t S, const int width, const int is_2d) {
    const int64_t D = t->channels, R = t->rank, L = t->length, K = t->directions, size = S * width;
    const int64_t line = R + 2 * S;
    const float *projected = t->projected + image * L * K * line;
    float *y = t->y + image * L * D + first;
    vec dt[STEPS * width];
    for (int64_t k = 0; k < K; k++) {
        const int64_t group = t->groups > 1 ? k : 0, columns = is_2d ? t->columns[k] : 0;
        const float *x = t->x + (image * t->groups + group) * L * D + first;
        const float *weight = t->weight + (k * D + first) * R, *bias = t->bias + k * D + first;
        const float *a = t->a + k * S * D + first;
        const float *skip = group == k ? t->skip + group * D + first : 0; /* shared rows: skip connection added once */
        const int64_t *order = t->order + k * L;
        for (int64_t n = 0; n < size * (1 + columns); n++) state[n] = all(0.0f);
        for (int64_t start = 0; start < L; start += STEPS) {
            const float *code[STEPS];
            for (int j = 0; j < STEPS; j++) {
                const int64_t step = start + j < L ? start + j : L - 1;
                code[j] = projected + (order[step] * K + k) * line;
            }
            project(code, weight, bias, R, dt, width);
            for (int j = 0; j < STEPS && start + j < L; j++) {
                const int64_t p = order[start + j] * D, column = is_2d ? (start + j) % columns : 0;
                const float *b = code[j] + R, *c = b + S;
                vec *above = state + (1 + column) * size;
                if (is_2d && column == 0)
                    for (int64_t n = 0; n < size; n++) state[n] = all(0.0f);
#pragma GCC unroll 4
                for (int i = 0; i < width; i++) {
                    const vec u = load(x + p + i * LANES), step = softplus(dt[j * width + i]), drive = step * u;
                    vec sum = k ? load(y + p + i * LANES) : all(0.0f);
                    if (skip) sum += u * load(skip + i * LANES);
                    for (int64_t s = 0; s < S; s++) {
                        const vec decay = power(step * load(a + s * D + i * LANES));
                        vec h = decay * state[s * width + i] + drive * (0.693147181f * b[s]);
                        state[s * width + i] = h;
                        if (is_2d) above[s * width + i] = h = decay * above[s * width + i] + h;
                        sum += h * c[s];
                    }
                    *(vec *)(y + p + i * LANES) = sum;
                }
            }
        }
    }
}

int64_t lanes(void) { return LANES; }

/* One copy of `scan` for each width, so that its loops over width are unrolled. */
#define SCAN_1D(state, S) \
    switch (width) { \
    case 1: scan(t, image, channel, state, S, 1, 0); break; \
    case 2: scan(t, image, channel, state, S, 2, 0); break; \
    case 3: scan(t, image, channel, state, S, 3, 0); break; \
    default: scan(t, image, channel, state, S, 4, 0); \
    }

/* Run tasks first..stop of images x blocks. `memory` is private to the call and holds the states of one scan, see
   `scan`; a single state needs none, as the compiler keeps it in registers. */
void scan_rows(const void *job, int64_t first, int64_t stop, float *memory) {
    const Scan *t = job;
    const int64_t S = t->states, width = t->width, block = width * LANES, blocks = t->channels / block;
    vec *states = (vec *)memory, single[4];
    for (int64_t task = first; task < stop; task++) {
        const int64_t image = task / blocks, channel = task % blocks * block;
        if (t->columns) {
            scan(t, image, channel, states, S, 1, 1);
        } else if (S == 1) {
            SCAN_1D(single, 1)
        } else {
            SCAN_1D(states, S)
        }
    }
}

typedef struct {
    int64_t height, width, channels, taps;
    const float *x;         /* [B, H, W, D], D a multiple of LANES */
    const float *weight;    /* [taps, D] */
    const int64_t *offsets; /* [taps, 2], rows and columns from a position to each neighbour */
    float *y;               /* [B, H, W, D] */
} Mix;

inlined int64_t clamped(int64_t i, int64_t size) { return i < 0 ? 0 : i < size ? i : size - 1; }

/* A depthwise convolution with arbitrary taps and replicated borders: y[p] is the weighted sum of x at p + offset,
   where a position outside the map means the nearest one on its border. Tasks are rows of images. The channels of a
   position are contiguous, so every tap is a run of vector loads, whatever its offset; torch's dilated convolutions
   would first copy a padded map. */
void mix_neighbours(const void *job, int64_t first, int64_t stop, float *memory) {
    (void)memory;
    const Mix *t = job;
    const int64_t H = t->height, W = t->width, D = t->channels;
    for (int64_t task = first; task < stop; task++) {
        const int64_t image = task / H, row = task % H;
        const float *x = t->x + image * H * W * D;
        float *y = t->y + (image * H + row) * W * D;
        for (int64_t column = 0; column < W; column++, y += D) {
            for (int64_t d = 0; d < D; d += LANES) *(vec *)(y + d) = all(0.0f);
            for (int64_t n = 0; n < t->taps; n++) {
                const int64_t i = clamped(row + t->offsets[2 * n], H), j = clamped(column + t->offsets[2 * n + 1], W);
                const float *source = x + (i * W + j) * D, *weight = t->weight + n * D;
                for (int64_t d = 0; d < D; d += LANES)
                    *(vec *)(y + d) = load(y + d) + load(source + d) * load(weight + d);
            }
        }
    }
}

typedef struct {
    void (*walk)(const void *job, int64_t first, int64_t stop, float *memory); /* scan_rows or mix_neighbours */
    const void *job;
    int64_t tasks, floats;
    float *memory; /* [threads, floats] */
} Shared;

#if defined(__linux__)
/* GNU's OpenMP, which torch's builds for Linux bring; null where torch has another one. Its threads spin for milliseconds
   after each of torch's operations: a thread of any other pool would have to wait until they give up a core. */
extern void GOMP_parallel(void (*)(void *), void *, unsigned threads, unsigned flags) __attribute__((weak));
extern int omp_get_thread_num(void) __attribute__((weak));
extern int omp_get_num_threads(void) __attribute__((weak));

static void walk_share(void *argument) {
    const Shared *s = argument;
    const int64_t i = omp_get_thread_num(), n = omp_get_num_threads();
    s->walk(s->job, s->tasks * i / n, s->tasks * (i + 1) / n, s->memory + i * s->floats);
}
#endif

/* Run all tasks; return 0, with nothing done, where torch's threads cannot be asked. */
int64_t run_on_torchs_threads(const Shared *s, int64_t threads) {
#if defined(__linux__)
    if (GOMP_parallel && omp_get_thread_num && omp_get_num_threads) {
        GOMP_parallel(walk_share, (void *)s, (unsigned)threads, 0);
        return 1;
    }
#endif
    (void)s, (void)threads;
    return 0;
}
