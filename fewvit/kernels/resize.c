/* The middle of an antialiased resize of 8-bit RGB pixels: only what the crop shows is computed.
 *
 * The same numbers as torch.nn.functional.interpolate(antialias=True) of bytes, bit for bit: weights in double, rounded
 * to 16 bits at the highest precision that holds the largest, across first, rounded to bytes, then down. The method is
 * Pillow's (Alex Clark and contributors), by way of its integer kernels.
 * Called through ctypes; no Python here.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define WITH_AVX2 __attribute__((target("avx2")))
#define HAS_AVX2 1
#endif

enum { BILINEAR = 0, BICUBIC = 1 };

typedef struct {
    int32_t first, last; /* sources of these outputs: from the first to before the last */
    int precision;       /* bits behind the point of a weight */
    int64_t taps;        /* weights of an output, padded to fours */
    int32_t *start, *size;
    int16_t *weights; /* [outputs][taps] */
} Side;

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static void release(Side *side) {
    free(side->start);
    free(side->size);
    free(side->weights);
}

/* weights of the outputs from `from` on, `count` of them, of a side of `in` pixels resized to `out` */
static int weigh(Side *side, int64_t in, int64_t out, int64_t from, int64_t count, int kind) {
    double scale = (double)in / (double)out, half = kind == BICUBIC ? 2.0 : 1.0;
    double support = scale >= 1.0 ? half * scale : half, inverse = scale >= 1.0 ? 1.0 / scale : 1.0;
    int64_t most = (int64_t)ceil(support) * 2 + 1;
    double *w = malloc((size_t)(most * out) * sizeof(double)), largest = 0.0;
    side->taps = (most + 3) / 4 * 4;
    side->start = malloc((size_t)count * 4);
    side->size = malloc((size_t)count * 4);
    side->weights = calloc((size_t)(count * side->taps), 2);
    if (!w || !side->start || !side->size || !side->weights) {
        free(w);
        return 1;
    }
    side->first = (int32_t)in;
    side->last = 0;
    for (int64_t i = 0; i < out; i++) { /* of all outputs: the largest weight decides about the precision */
        double center = scale * (i + 0.5), total = 0.0;
        int64_t low = (int64_t)(center - support + 0.5), high = (int64_t)(center + support + 0.5);
        if (low < 0) low = 0;
        if (high > in) high = in;
        int64_t size = high - low;
        if (size > most) size = most;
        if (size < 0) size = 0;
        double *own = w + i * most;
        for (int64_t j = 0; j < size; j++) {
            double x = (j + low - center + 0.5) * inverse;
            own[j] = kind == BICUBIC ? bicubic(x) : bilinear(x);
            total += own[j];
        }
        for (int64_t j = 0; j < size; j++) {
            if (total != 0.0) own[j] /= total;
            if (own[j] > largest) largest = own[j];
        }
        if (i >= from && i < from + count) {
            side->start[i - from] = (int32_t)low;
            side->size[i - from] = (int32_t)size;
            if (low < side->first) side->first = (int32_t)low;
            if (low + size > side->last) side->last = (int32_t)(low + size);
        }
    }
    for (side->precision = 0; side->precision < 22; side->precision++)
        if ((int)(0.5 + largest * (1 << (side->precision + 1))) >= 1 << 15) break;
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < side->size[i]; j++) {
            double v = w[(i + from) * most + j] * (1 << side->precision);
            side->weights[i * side->taps + j] = (int16_t)(v < 0 ? (int)(-0.5 + v) : (int)(0.5 + v));
        }
    free(w);
    return 0;
}

static inline uint8_t byte_of(int32_t sum, int precision) {
    sum >>= precision;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* ---- across: one row of the source to one of the crop's width -------------------------------------------------------- */

static void across_plain(const Side *side, const uint8_t *row, uint8_t *out, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        const int16_t *w = side->weights + i * side->taps;
        const uint8_t *x = row + 3 * side->start[i];
        int32_t sums[3];
        sums[0] = sums[1] = sums[2] = 1 << (side->precision - 1);
        for (int64_t j = 0; j < side->size[i]; j++, x += 3) {
            sums[0] += w[j] * x[0];
            sums[1] += w[j] * x[1];
            sums[2] += w[j] * x[2];
        }
        for (int c = 0; c < 3; c++) out[3 * i + c] = byte_of(sums[c], side->precision);
    }
}

static void down_plain(const Side *side, int64_t i, const uint8_t *rows, int64_t line, uint8_t *out, int64_t from, int64_t to) {
    const int16_t *w = side->weights + i * side->taps;
    const uint8_t *x = rows + (side->start[i] - side->first) * line;
    for (int64_t at = from; at < to; at++) {
        int32_t sum = 1 << (side->precision - 1);
        for (int64_t j = 0; j < side->size[i]; j++) sum += w[j] * x[j * line + at];
        out[at] = byte_of(sum, side->precision);
    }
}

#ifdef HAS_AVX2

/* weights as they are multiplied: for each four of an output the first pair four times, then the second; 32 bytes */
static int16_t *in_pairs(const Side *side, int64_t count) {
    int64_t fours = side->taps / 4;
    int16_t *wide = aligned_alloc(32, (size_t)(count * fours) * 32);
    if (!wide) return NULL;
    for (int64_t i = 0; i < count * fours; i++)
        for (int64_t j = 0; j < 16; j++) wide[16 * i + j] = side->weights[4 * i + j / 8 * 2 + j % 2];
    return wide;
}

/* Two rows, the second of which may be the first again. `end`: what lies from there on may not be read; the outputs have
 * room for four bytes more. */
WITH_AVX2 static void across_avx2(const Side *side, const int16_t *wide, const uint8_t *row, const uint8_t *next,
                                  const uint8_t *end, uint8_t *out, uint8_t *beside, int64_t count) {
    /* pixels 0, 1 and 2, 3 of sixteen bytes, their channels in pairs of 16 bits */
    const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                           6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m128i half = _mm_set1_epi32(1 << (side->precision - 1)), shift = _mm_cvtsi32_si128(side->precision);
    const uint8_t *last = row > next ? row : next;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = 3 * (int64_t)side->start[i], fours = (side->size[i] + 3) / 4;
        if (last + at + 12 * fours + 4 > end) {
            across_plain(side, row, out, i, i + 1);
            across_plain(side, next, beside, i, i + 1);
            continue;
        }
        const __m256i *w = (const __m256i *)wide + i * (side->taps / 4);
        const uint8_t *x = row + at, *y = next + at;
        __m256i one = _mm256_setzero_si256(), other = _mm256_setzero_si256();
        for (int64_t j = 0; j < fours; j++, x += 12, y += 12) {
            __m256i own = _mm256_load_si256(w + j);
            __m256i a = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)x));
            __m256i b = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)y));
            one = _mm256_add_epi32(one, _mm256_madd_epi16(_mm256_shuffle_epi8(a, pairs), own));
            other = _mm256_add_epi32(other, _mm256_madd_epi16(_mm256_shuffle_epi8(b, pairs), own));
        }
        __m128i a = _mm_add_epi32(_mm256_castsi256_si128(one), _mm256_extracti128_si256(one, 1));
        __m128i b = _mm_add_epi32(_mm256_castsi256_si128(other), _mm256_extracti128_si256(other, 1));
        a = _mm_sra_epi32(_mm_add_epi32(a, half), shift);
        b = _mm_sra_epi32(_mm_add_epi32(b, half), shift);
        __m128i both = _mm_packs_epi32(a, b);
        both = _mm_packus_epi16(both, both);
        int32_t bytes = _mm_cvtsi128_si32(both), more = _mm_extract_epi32(both, 1);
        memcpy(out + 3 * i, &bytes, 4);
        memcpy(beside + 3 * i, &more, 4);
    }
}

WITH_AVX2 static void down_avx2(const Side *side, int64_t i, const uint8_t *rows, int64_t line, uint8_t *out, int64_t bytes) {
    const int16_t *w = side->weights + i * side->taps;
    const uint8_t *x = rows + (side->start[i] - side->first) * line;
    const __m256i half = _mm256_set1_epi32(1 << (side->precision - 1));
    const __m128i shift = _mm_cvtsi32_si128(side->precision);
    int64_t size = side->size[i], at = 0;
    for (; at + 32 <= bytes; at += 32) {
        __m256i sums[4] = {half, half, half, half};
        for (int64_t j = 0; j < size; j += 2) {
            __m256i one = _mm256_loadu_si256((const __m256i *)(x + j * line + at)), other = _mm256_setzero_si256();
            int32_t both = (uint16_t)w[j];
            if (j + 1 < size) {
                other = _mm256_loadu_si256((const __m256i *)(x + (j + 1) * line + at));
                both |= (int32_t)((uint32_t)(uint16_t)w[j + 1] << 16);
            }
            __m256i own = _mm256_set1_epi32(both), zero = _mm256_setzero_si256();
            __m256i low = _mm256_unpacklo_epi8(one, other), high = _mm256_unpackhi_epi8(one, other);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), own));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), own));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), own));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), own));
        }
        for (int s = 0; s < 4; s++) sums[s] = _mm256_sra_epi32(sums[s], shift);
        __m256i low = _mm256_packs_epi32(sums[0], sums[1]), high = _mm256_packs_epi32(sums[2], sums[3]);
        _mm256_storeu_si256((__m256i *)(out + at), _mm256_packus_epi16(low, high));
    }
    down_plain(side, i, rows, line, out, at, bytes);
}

#endif

/* Of pixels (in_h, in_w, 3) resized to (out_h, out_w, 3) the part (h, w, 3) from (top, left) on. 0, or 1: no memory. */
EXPORT int resized_part(const uint8_t *pixels, int64_t in_h, int64_t in_w, int64_t out_h, int64_t out_w, int64_t top,
                        int64_t left, int64_t h, int64_t w, int64_t kind, uint8_t *out) {
    Side x = {0}, y = {0};
    uint8_t *rows = NULL;
    int failed = weigh(&x, in_w, out_w, left, w, (int)kind) || weigh(&y, in_h, out_h, top, h, (int)kind);
    int64_t line = 3 * w;
    int16_t *wide = NULL;
#ifdef HAS_AVX2
    int fast = __builtin_cpu_supports("avx2");
    if (!failed && fast && in_w != out_w) failed = !(wide = in_pairs(&x, w));
#endif
    if (!failed) failed = !(rows = malloc((size_t)((y.last - y.first) * line + 4)));
    if (!failed) {
        for (int64_t r = y.first; r < y.last; r++) {
            const uint8_t *row = pixels + r * in_w * 3;
            uint8_t *to = rows + (r - y.first) * line;
            if (in_w == out_w) memcpy(to, row + 3 * left, (size_t)line); /* torch leaves out a side that stays */
#ifdef HAS_AVX2
            else if (fast) {
                int two = r + 1 < y.last;
                across_avx2(&x, wide, row, row + (two ? in_w * 3 : 0), pixels + in_h * in_w * 3, to, to + (two ? line : 0), w);
                if (two) {
                    across_plain(&x, row + in_w * 3, to + line, 0, 1); /* what the first row's fourth byte took */
                    r++;
                }
            }
#endif
            else across_plain(&x, row, to, 0, w);
        }
        for (int64_t r = 0; r < h; r++) {
            if (in_h == out_h) memcpy(out + r * line, rows + (r + top - y.first) * line, (size_t)line);
#ifdef HAS_AVX2
            else if (fast) down_avx2(&y, r, rows, line, out + r * line, line);
#endif
            else down_plain(&y, r, rows, line, out + r * line, 0, line);
        }
    }
    free(wide);
    free(rows);
    release(&x);
    release(&y);
    return failed;
}
