/* Passes over rows of values, each of which torch needs several operations for: read once, computed in fp32, written once.

   `rows.py` calls these functions and says what they compute; values are fp32 or bfloat16, as `is_bf16` says. A row is
   held in fp32 on the thread's stack, so `rows.py` passes none that is very wide. The compiler makes vectors of the
   loops: they have no branches, and what needs one in the language is an operation on bits here. No sum is contracted
   to a fused one unless `fmaf` asks for it: quantized values are those of torch to the bit. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SERIAL 16384 /* values that are done before a second thread would have begun */

#define PRAGMA(words) _Pragma(#words)
#define FOR_ROWS(i, count, width)                                                                  \
    PRAGMA(omp parallel for num_threads(threads) schedule(static) if ((count) * (width) > SERIAL)) \
    for (int64_t i = 0; i < (count); i++)

typedef uint16_t bf16;

static inline float widened(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, half to even; a NaN stays one. */
static inline bf16 narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bf16)nearest;
}

/* The magnitude's bits: they are in the order of the magnitudes, with a NaN above all. */
static inline int32_t magnitude(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}

static inline int32_t largest_magnitude(const float *restrict row, int64_t n) {
    int32_t bits = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t own = magnitude(row[i]);
        bits = own > bits ? own : bits;
    }
    return bits;
}

static inline void read_row(const void *x, int is_bf16, int64_t at, int64_t n, float *restrict row) {
    if (is_bf16) {
        const bf16 *from = (const bf16 *)x + at;
        for (int64_t i = 0; i < n; i++) row[i] = widened(from[i]);
    } else {
        memcpy(row, (const float *)x + at, n * sizeof(float));
    }
}

static inline void write_row(void *out, int is_bf16, int64_t at, int64_t n, const float *restrict row) {
    if (is_bf16) {
        bf16 *to = (bf16 *)out + at;
        for (int64_t i = 0; i < n; i++) to[i] = narrowed(row[i]);
    } else {
        memcpy((float *)out + at, row, n * sizeof(float));
    }
}

/* x / (1 + exp(-x)). The exponential is 2^n times a polynomial of degree 6 (coefficients of Cephes' expf), to 2 units
   in the last place. It would leave the numbers that fp32 has beyond +-87, where the result is 0 or x. */
static inline float silu(float x) {
    x = x < -87.0f && x >= -FLT_MAX ? -87.0f : x; /* minus infinity becomes a NaN, as in torch */
    float y = x > 87.0f ? -87.0f : -x;
    float n = rintf(y * 1.44269504088896341f);
    float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, y));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r + 1.0f);
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x / fmaf(p, power, 1.0f);
}

/* Magnitudes beyond 127 become 127. */
static inline void quantize(const float *restrict row, int64_t n, float divisor, int offset, uint8_t *restrict q) {
    for (int64_t i = 0; i < n; i++) {
        float value = rintf(row[i] / divisor);
        value = value > 127.0f ? 127.0f : value;
        value = value < -127.0f ? -127.0f : value;
        q[i] = (uint8_t)((int32_t)value + offset);
    }
}

void sana_quantize_rows(const void *x, int is_bf16, int64_t M, int64_t K, int64_t stride, const float *smooth, int offset,
                        uint8_t *q, float *scale, int threads) {
    FOR_ROWS(m, M, K) {
        float row[K];
        read_row(x, is_bf16, m * stride, K, row);
        if (smooth)
            for (int64_t k = 0; k < K; k++) row[k] *= smooth[k];
        int32_t bits = largest_magnitude(row, K);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        scale[m] = largest / 127.0f;
        quantize(row, K, scale[m] > 0 ? scale[m] : 1.0f, offset, q + m * K);
    }
}

/* The largest magnitude of M * K values. */
float sana_largest(const void *x, int is_bf16, int64_t M, int64_t K, int threads) {
    int32_t all = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : all) if (M * K > SERIAL)
    for (int64_t m = 0; m < M; m++) {
        float row[K];
        read_row(x, is_bf16, m * K, K, row);
        int32_t bits = largest_magnitude(row, K);
        all = bits > all ? bits : all;
    }
    float largest;
    memcpy(&largest, &all, sizeof largest);
    return largest;
}

/* With one scale for all rows. */
void sana_quantize_all(const void *x, int is_bf16, int64_t M, int64_t K, float scale, int offset, uint8_t *q, int threads) {
    FOR_ROWS(m, M, K) {
        float row[K];
        read_row(x, is_bf16, m * K, K, row);
        quantize(row, K, scale, offset, q + m * K);
    }
}

/* `out` may be `product`, where it is fp32. */
void sana_finish_rows(const float *product, int64_t M, int64_t N, const float *scale, const float *bias, void *out,
                      int is_bf16, int threads) {
    FOR_ROWS(m, M, N) {
        const float *from = product + m * N;
        float s = scale[m], row[N];
        float *to = is_bf16 ? row : (float *)out + m * N;
        if (bias)
            for (int64_t n = 0; n < N; n++) to[n] = fmaf(from[n], s, bias[n]);
        else
            for (int64_t n = 0; n < N; n++) to[n] = from[n] * s;
        if (is_bf16) write_row(out, 1, m * N, N, row);
    }
}

void sana_dequantize_rows(const int8_t *q, int64_t N, int64_t K, const float *scale, void *out, int is_bf16, int threads) {
    FOR_ROWS(n, N, K) {
        const int8_t *from = q + n * K;
        float s = scale[n];
        if (is_bf16) {
            bf16 *to = (bf16 *)out + n * K;
            for (int64_t k = 0; k < K; k++) to[k] = narrowed(from[k] * s);
        } else {
            float *to = (float *)out + n * K;
            for (int64_t k = 0; k < K; k++) to[k] = from[k] * s;
        }
    }
}

/* Two values a byte, the lower four bits first, each 8 too large; `group` of them share a scale, which has the type of
   the result: (N, G * group / 2) bytes -> (N, G * group). */
void sana_dequantize_groups(const uint8_t *q, int64_t N, int64_t G, int64_t group, const void *scale, void *out, int is_bf16,
                            int threads) {
    FOR_ROWS(n, N, G * group) {
        float scales[G], row[group];
        read_row(scale, is_bf16, n * G, G, scales);
        for (int64_t g = 0; g < G; g++) {
            const uint8_t *from = q + (n * G + g) * (group / 2);
            float s = scales[g];
            for (int64_t k = 0; k < group / 2; k++) {
                row[2 * k] = ((int32_t)(from[k] & 15) - 8) * s;
                row[2 * k + 1] = ((int32_t)(from[k] >> 4) - 8) * s;
            }
            write_row(out, is_bf16, (n * G + g) * group, group, row);
        }
    }
}

void sana_rms_norm(const void *x, int is_bf16, int64_t M, int64_t C, int64_t stride, float eps, const float *weight,
                   const float *bias, const void *residual, void *out, int threads) {
    FOR_ROWS(m, M, C) {
        float row[C], more[C], sum = 0;
        read_row(x, is_bf16, m * stride, C, row);
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; c++) sum += row[c] * row[c];
        float factor = 1.0f / sqrtf(sum / C + eps);
        if (bias)
            for (int64_t c = 0; c < C; c++) row[c] = fmaf(row[c] * factor, weight[c], bias[c]);
        else
            for (int64_t c = 0; c < C; c++) row[c] = row[c] * factor * weight[c];
        if (residual) {
            read_row(residual, is_bf16, m * C, C, more);
            for (int64_t c = 0; c < C; c++) row[c] += more[c];
        }
        write_row(out, is_bf16, m * C, C, row);
    }
}

/* LayerNorm of B * N rows, then * (1 + scale) + shift, one row of each a picture. */
void sana_modulated_norm(const void *x, int is_bf16, int64_t B, int64_t N, int64_t D, float eps, const void *shift,
                         int64_t shift_stride, const void *scale, int64_t scale_stride, void *out, int threads) {
    FOR_ROWS(m, B * N, D) {
        float row[D], factors[D], shifts[D], sum = 0, squares = 0;
        read_row(x, is_bf16, m * D, D, row);
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < D; d++) sum += row[d];
        float mean = sum / D;
#pragma omp simd reduction(+ : squares)
        for (int64_t d = 0; d < D; d++) squares += (row[d] - mean) * (row[d] - mean);
        float factor = 1.0f / sqrtf(squares / D + eps);
        read_row(scale, is_bf16, m / N * scale_stride, D, factors);
        read_row(shift, is_bf16, m / N * shift_stride, D, shifts);
        for (int64_t d = 0; d < D; d++) row[d] = fmaf((row[d] - mean) * factor, 1.0f + factors[d], shifts[d]);
        write_row(out, is_bf16, m * D, D, row);
    }
}

void sana_silu(void *x, int is_bf16, int64_t M, int64_t C, int threads) {
    FOR_ROWS(m, M, C) {
        float row[C];
        read_row(x, is_bf16, m * C, C, row);
        for (int64_t c = 0; c < C; c++) row[c] = silu(row[c]);
        write_row(x, is_bf16, m * C, C, row);
    }
}

/* (M, 2C) -> (M, C): the first half times the SiLU of the second. */
void sana_gated_unit(const void *x, int is_bf16, int64_t M, int64_t C, void *out, int threads) {
    FOR_ROWS(m, M, C) {
        float values[C], gates[C];
        read_row(x, is_bf16, m * 2 * C, C, values);
        read_row(x, is_bf16, m * 2 * C + C, C, gates);
        for (int64_t c = 0; c < C; c++) values[c] *= silu(gates[c]);
        write_row(out, is_bf16, m * C, C, values);
    }
}
