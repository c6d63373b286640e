/* The core of SS2D (VMamba, arXiv 2401.10166, section 4.2) on a CPU in float32, forward only.

For each direction k of four and each step t, with p = order[k][t]:
    dt = softplus(bias + weight . code[p]),  h = exp(dt a) h + dt u[p] b[p],  y[p] += c[p] h
The map is read and its result added up in place; step sizes live in registers and one small buffer, so nothing
of the size of four scans exists. Written with vectors of GCC and Clang, without intrinsics: the machine's
width is chosen when _c_ss2d.py compiles this file. One task is one image and one block of channels; tasks
share nothing that they write, so results do not depend on the number of threads. */

#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define STEPS 4 /* steps whose sizes are computed together: STEPS x width sums stay in registers */
#define inlined static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t length, channels, rank, states;
    const float *x;         /* [B, L, D] */
    const float *projected; /* [B, L, 4, R + 2 S]: code, b, c of each position and direction */
    const float *weight;    /* [4, D / block, R, block], block = width * LANES */
    const float *bias;      /* [4, D] */
    const float *a;         /* [4, S, D] */
    const float *skip;      /* [D] */
    const int64_t *order;   /* [4, L] */
    float *y;               /* [B, L, D] */
} Scan;

inlined vec load(const float *p) { return *(const vec *)p; }
inlined vec all(float x) { return x - (vec){0}; }
inlined vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* e**x as in _numba_math.py: NaN stays NaN, overflow gives inf, underflow 0; relative error below 3e-7. */
inlined vec exponential(vec x) {
    vec clamped = choose(x < -87.33654f, all(-87.33654f), x);
    clamped = choose(clamped > 88.72283f, all(88.72283f), clamped);
    vec shifted = clamped * 1.4426950408889634f + 12582912.0f; /* n ends up in the low bits of the mantissa */
    vec n = shifted - 12582912.0f;
    vec r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = 0.5f + r * (0.16666577f + r * (0.04166655f + r * (0.00836318f + r * 0.00139262f)));
    vec value = (1.0f + (r + r * r * p)) * (vec)(((ivec)shifted << 23) + 0x3F800000);
    value = choose(x > 88.72283f, all(__builtin_inff()), value);
    return choose(x < -87.33654f, all(0.0f), value);
}

inlined vec softplus(vec x) {
    vec e = exponential(-(vec)((ivec)x & 0x7FFFFFFF));
    vec s = e / (2.0f + e);
    vec z = s * s; /* log(1 + e) = 2 atanh(s) */
    vec log1p = s * (2.00000001f + z * (0.66666322f + z * (0.40024595f + z * (0.27965158f + z * 0.28157778f))));
    return choose(x < 0.0f, all(0.0f), x) + log1p;
}

/* Compute bias + weight . code for STEPS positions; unrolled, so that the sums stay in registers. */
inlined void project(
    const float *const *code, const float *weight, const float *bias, int64_t rank, vec *dt, const int width) {
    vec sum[STEPS * width];
#pragma GCC unroll 16
    for (int n = 0; n < STEPS * width; n++) sum[n] = load(bias + n % width * LANES);
    for (int64_t r = 0; r < rank; r++) {
        const float *w = weight + r * width * LANES;
#pragma GCC unroll 16
        for (int n = 0; n < STEPS * width; n++) sum[n] += code[n / width][r] * load(w + n % width * LANES);
    }
#pragma GCC unroll 16
    for (int n = 0; n < STEPS * width; n++) dt[n] = sum[n];
}

inlined void scan(const Scan *t, int64_t image, int64_t first, const int width) {
    const int64_t D = t->channels, S = t->states, R = t->rank, L = t->length, row = 4 * (R + 2 * S);
    const float *x = t->x + image * L * D + first, *projected = t->projected + image * L * row;
    float *y = t->y + image * L * D + first;
    vec state[S * width], dt[STEPS * width];
    for (int64_t k = 0; k < 4; k++) {
        const float *weight = t->weight + (k * D + first) * R, *bias = t->bias + k * D + first;
        const float *a = t->a + k * S * D + first;
        const int64_t *order = t->order + k * L;
        for (int64_t n = 0; n < S * width; n++) state[n] = all(0.0f);
        for (int64_t start = 0; start < L; start += STEPS) {
            const float *code[STEPS];
            for (int j = 0; j < STEPS; j++) {
                const int64_t step = start + j < L ? start + j : L - 1;
                code[j] = projected + order[step] * row + k * (R + 2 * S);
            }
            project(code, weight, bias, R, dt, width);
            for (int j = 0; j < STEPS && start + j < L; j++) {
                const int64_t p = order[start + j] * D;
                const float *b = code[j] + R, *c = b + S;
                for (int i = 0; i < width; i++) {
                    const vec u = load(x + p + i * LANES), size = softplus(dt[j * width + i]), drive = size * u;
                    vec sum = u * load(t->skip + first + i * LANES);
                    if (k) sum = load(y + p + i * LANES);
                    for (int64_t s = 0; s < S; s++) {
                        const vec decay = exponential(size * load(a + s * D + i * LANES));
                        state[s * width + i] = decay * state[s * width + i] + drive * b[s];
                        sum += state[s * width + i] * c[s];
                    }
                    *(vec *)(y + p + i * LANES) = sum;
                }
            }
        }
    }
}

int64_t lanes(void) { return LANES; }

/* Run the tasks first..stop of images x blocks; a block is `width` (1 to 4) vectors of channels. */
void ss2d(const Scan *t, int64_t width, int64_t first, int64_t stop) {
    const int64_t block = width * LANES, blocks = t->channels / block;
    for (int64_t task = first; task < stop; task++) {
        const int64_t image = task / blocks, channel = task % blocks * block;
        switch (width) {
        case 1: scan(t, image, channel, 1); break;
        case 2: scan(t, image, channel, 2); break;
        case 3: scan(t, image, channel, 3); break;
        default: scan(t, image, channel, 4);
        }
    }
}
