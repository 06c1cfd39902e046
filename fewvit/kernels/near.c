/* Exact neighbours by cheap products: every row whose score may be among the k best, then exact scores of those.
 *
 * Scores are those of rows and queries less the rows' mean m, which are shorter: q.r - q.m = (q - m).(r - m) + m.(r - m).
 * The products are of bfloat16 (AMX or AVX-512 BF16) or of float32 (AVX-512 or AVX2), their sums of float32; the caller
 * gives for each query twice the largest error of such a score, and rows are kept while they are no further below the
 * k-th best than that. Scores that are given back are sums in double of the float32 rows as they are.
 *
 * Rows lie in panels of 16: for each two (bfloat16) or one (float32) columns the 16 rows' numbers side by side.
 * Called through ctypes; no Python here. One file because all of it works on one layout.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define LANES 16
#define GROUP 32 /* queries, and rows, of one product */
#define STRIP 256 /* rows that stay in the second-level cache while the queries of a call pass over them */

enum { NONE = 0, AVX2 = 1, AVX512 = 2, AVX512_BF16 = 3, AMX = 4 };
enum { CROWDED = -1, WRONG = -2 };

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define WITH_AVX2 __attribute__((target("avx2,fma,f16c")))
#define WITH_AVX512 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")))
#define WITH_BF16 __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define WITH_AMX __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))

static int amx_allowed(void) {
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}

/* ---- what queries keep ------------------------------------------------------------------------------------------- */

typedef struct {
    float *least;     /* [queries] scores below it are of no use any more */
    int32_t *count;   /* [queries] candidates so far, or CROWDED */
    const float *slack; /* [queries] twice the largest error */
    int32_t *rows;    /* [queries][room] */
    float *scores;    /* [queries][room] */
    int64_t k, room;
} Kept;

/* the k-th largest, from 1, of n numbers, which are moved about */
static float kth_largest(float *x, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1, wanted = k - 1;
    while (low < high) {
        float a = x[low], b = x[(low + high) / 2], c = x[high];
        float pivot = a < b ? (b < c ? b : (a < c ? c : a)) : (a < c ? a : (b < c ? c : b));
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) {
                float t = x[i];
                x[i++] = x[j];
                x[j--] = t;
            }
        }
        if (wanted <= j) high = j;
        else if (wanted >= i) low = i;
        else break;
    }
    return x[wanted];
}

/* raise the least score by the k-th best, and let go what lies below; `work` has room for all */
static void compact(Kept *kept, int64_t q, float *work) {
    float *scores = kept->scores + q * kept->room;
    int32_t *rows = kept->rows + q * kept->room;
    int64_t n = kept->count[q], left = 0;
    if (n >= kept->k) {
        memcpy(work, scores, n * sizeof(float));
        float least = nextafterf(kth_largest(work, n, kept->k) - kept->slack[q], -INFINITY);
        if (least > kept->least[q]) kept->least[q] = least;
    }
    for (int64_t i = 0; i < n; i++) {
        scores[left] = scores[i];
        rows[left] = rows[i];
        left += scores[i] >= kept->least[q];
    }
    kept->count[q] = (int32_t)left;
}

/* make room for another group of rows; a query that keeps too much is given up */
static void make_room(Kept *kept, int64_t q, float *work) {
    if (kept->count[q] <= kept->room - GROUP) return;
    compact(kept, q, work);
    if (kept->count[q] > kept->room - kept->room / 4) {
        kept->count[q] = CROWDED;
        kept->least[q] = INFINITY;
    }
}

/* ---- products of 32 queries and 32 rows: scores [32][32] ---------------------------------------------------------- */

/* eight tiles of 16 rows of 64 bytes; a constant, since the compiler believes that only its first bytes are read */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

WITH_AMX static void tiles(int on) {
    if (on) _tile_loadconfig(&TILES);
    else _tile_release();
}

WITH_AMX static void product_amx(const void *queries, const void *panels, int64_t width, float *scores) {
    const uint8_t *a = queries, *b = panels;
    int64_t line = width * 2, panel = line * LANES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < width; k += 32) {
        _tile_loadd(4, a + 2 * k, line);
        _tile_loadd(5, a + 2 * k + 16 * line, line);
        _tile_loadd(6, b + 32 * k, 64);
        _tile_loadd(7, b + 32 * k + panel, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, scores, 128);
    _tile_stored(1, scores + 16, 128);
    _tile_stored(2, scores + 16 * 32, 128);
    _tile_stored(3, scores + 16 * 32 + 16, 128);
}

WITH_BF16 static void product_bf16(const void *queries, const void *panels, int64_t width, float *scores) {
    const int32_t *a = queries, *b = panels;
    int64_t line = width / 2, panel = line * LANES;
    for (int64_t q = 0; q < GROUP; q += 8) {
        __m512 sums[8][2];
        for (int i = 0; i < 8; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
        for (int64_t k = 0; k < line; k++) {
            __m512bh left = (__m512bh)_mm512_loadu_si512(b + k * LANES);
            __m512bh right = (__m512bh)_mm512_loadu_si512(b + panel + k * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m512bh one = (__m512bh)_mm512_set1_epi32(a[(q + i) * line + k]);
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], one, left);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], one, right);
            }
        }
        for (int i = 0; i < 8; i++) {
            _mm512_storeu_ps(scores + (q + i) * GROUP, sums[i][0]);
            _mm512_storeu_ps(scores + (q + i) * GROUP + LANES, sums[i][1]);
        }
    }
}

WITH_AVX512 static void product_avx512(const void *queries, const void *panels, int64_t width, float *scores) {
    const float *a = queries, *b = panels;
    int64_t panel = width * LANES;
    for (int64_t q = 0; q < GROUP; q += 8) {
        __m512 sums[8][2];
        for (int i = 0; i < 8; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k++) {
            __m512 left = _mm512_loadu_ps(b + k * LANES), right = _mm512_loadu_ps(b + panel + k * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m512 one = _mm512_set1_ps(a[(q + i) * width + k]);
                sums[i][0] = _mm512_fmadd_ps(one, left, sums[i][0]);
                sums[i][1] = _mm512_fmadd_ps(one, right, sums[i][1]);
            }
        }
        for (int i = 0; i < 8; i++) {
            _mm512_storeu_ps(scores + (q + i) * GROUP, sums[i][0]);
            _mm512_storeu_ps(scores + (q + i) * GROUP + LANES, sums[i][1]);
        }
    }
}

WITH_AVX2 static void product_avx2(const void *queries, const void *panels, int64_t width, float *scores) {
    const float *a = queries;
    for (int p = 0; p < 2; p++) {
        const float *b = (const float *)panels + p * width * LANES;
        for (int64_t q = 0; q < GROUP; q += 4) {
            __m256 sums[4][2];
            for (int i = 0; i < 4; i++) sums[i][0] = sums[i][1] = _mm256_setzero_ps();
            for (int64_t k = 0; k < width; k++) {
                __m256 left = _mm256_loadu_ps(b + k * LANES), right = _mm256_loadu_ps(b + k * LANES + 8);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    __m256 one = _mm256_broadcast_ss(a + (q + i) * width + k);
                    sums[i][0] = _mm256_fmadd_ps(one, left, sums[i][0]);
                    sums[i][1] = _mm256_fmadd_ps(one, right, sums[i][1]);
                }
            }
            for (int i = 0; i < 4; i++) {
                _mm256_storeu_ps(scores + (q + i) * GROUP + p * LANES, sums[i][0]);
                _mm256_storeu_ps(scores + (q + i) * GROUP + p * LANES + 8, sums[i][1]);
            }
        }
    }
}

/* ---- of the scores, those that may be among the best --------------------------------------------------------------- */

WITH_AVX512 static void keep_avx512(Kept *kept, int64_t q0, const float *scores, const float *bias, int32_t row, float *work) {
    __m512 bias0 = _mm512_loadu_ps(bias), bias1 = _mm512_loadu_ps(bias + LANES);
    __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i rows0 = _mm512_add_epi32(order, _mm512_set1_epi32(row)), rows1 = _mm512_add_epi32(order, _mm512_set1_epi32(row + LANES));
    for (int64_t q = q0; q < q0 + GROUP; q++, scores += GROUP) {
        if (kept->count[q] < 0) continue; /* given up: it has no place to write to */
        __m512 least = _mm512_set1_ps(kept->least[q]);
        __m512 one = _mm512_add_ps(_mm512_loadu_ps(scores), bias0), other = _mm512_add_ps(_mm512_loadu_ps(scores + LANES), bias1);
        __mmask16 in_one = _mm512_cmp_ps_mask(one, least, _CMP_GE_OQ), in_other = _mm512_cmp_ps_mask(other, least, _CMP_GE_OQ);
        if (!(in_one | in_other)) continue;
        float *to = kept->scores + q * kept->room + kept->count[q];
        int32_t *number = kept->rows + q * kept->room + kept->count[q];
        int first = __builtin_popcount(in_one);
        /* whole vectors are written, there is room for them: compressing into memory is slow on some CPUs */
        _mm512_storeu_ps(to, _mm512_maskz_compress_ps(in_one, one));
        _mm512_storeu_si512(number, _mm512_maskz_compress_epi32(in_one, rows0));
        _mm512_storeu_ps(to + first, _mm512_maskz_compress_ps(in_other, other));
        _mm512_storeu_si512(number + first, _mm512_maskz_compress_epi32(in_other, rows1));
        kept->count[q] += first + __builtin_popcount(in_other);
        make_room(kept, q, work);
    }
}

WITH_AVX2 static void keep_avx2(Kept *kept, int64_t q0, const float *scores, const float *bias, int32_t row, float *work) {
    for (int64_t q = q0; q < q0 + GROUP; q++, scores += GROUP) {
        if (kept->count[q] < 0) continue; /* given up: it has no place to write to */
        __m256 least = _mm256_set1_ps(kept->least[q]);
        for (int at = 0; at < GROUP; at += 8) {
            float own[8];
            __m256 sums = _mm256_add_ps(_mm256_loadu_ps(scores + at), _mm256_loadu_ps(bias + at));
            unsigned in = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(sums, least, _CMP_GE_OQ));
            if (!in) continue;
            _mm256_storeu_ps(own, sums);
            for (; in; in &= in - 1) {
                int i = __builtin_ctz(in);
                kept->scores[q * kept->room + kept->count[q]] = own[i];
                kept->rows[q * kept->room + kept->count[q]++] = row + at + i;
            }
        }
        make_room(kept, q, work);
    }
}

typedef void (*Product)(const void *, const void *, int64_t, float *);
typedef void (*Keep)(Kept *, int64_t, const float *, const float *, int32_t, float *);

/* ---- sums in double -------------------------------------------------------------------------------------------------- */

WITH_AVX512 static double dot_avx512(const double *q, const void *row, int half, int64_t d) {
    __m512d sums[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
    int64_t i = 0;
    const float *wide = row;
    const uint16_t *narrow = row;
    for (; i + 32 <= d; i += 32)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256 x = half ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(narrow + i + 8 * j))) : _mm256_loadu_ps(wide + i + 8 * j);
            sums[j] = _mm512_fmadd_pd(_mm512_loadu_pd(q + i + 8 * j), _mm512_cvtps_pd(x), sums[j]);
        }
    double sum = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(sums[0], sums[1]), _mm512_add_pd(sums[2], sums[3])));
    for (; i < d; i++) sum += q[i] * (double)(half ? _cvtsh_ss(narrow[i]) : wide[i]);
    return sum;
}

WITH_AVX2 static double dot_avx2(const double *q, const void *row, int half, int64_t d) {
    __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    int64_t i = 0;
    const float *wide = row;
    const uint16_t *narrow = row;
    for (; i + 16 <= d; i += 16)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m128 x = half ? _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(narrow + i + 4 * j))) : _mm_loadu_ps(wide + i + 4 * j);
            sums[j] = _mm256_fmadd_pd(_mm256_loadu_pd(q + i + 4 * j), _mm256_cvtps_pd(x), sums[j]);
        }
    __m256d all = _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3]));
    double parts[4];
    _mm256_storeu_pd(parts, all);
    double sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    for (; i < d; i++) sum += q[i] * (double)(half ? _cvtsh_ss(narrow[i]) : wide[i]);
    return sum;
}

/* ---- from numbers to panels -------------------------------------------------------------------------------------------- */

/* a row less the mean, in double; NULL is no mean */
WITH_AVX2 static void less_mean(const void *row, int half, int64_t d, const double *mean, double *out) {
    const float *wide = row;
    const uint16_t *narrow = row;
    if (half)
        for (int64_t i = 0; i < d; i++) out[i] = (double)_cvtsh_ss(narrow[i]) - mean[i];
    else
        for (int64_t i = 0; i < d; i++) out[i] = (double)wide[i] - mean[i];
}

/* nearest in bfloat16, ties to even; finite numbers only */
static inline uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float of_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* a row's numbers as they are multiplied (width of them, zeros behind), its length and that of what rounding took */
WITH_AVX2 static void rounded(const double *x, int64_t d, int64_t width, int bf16, void *out, double *length, double *lost) {
    double squares = 0, apart = 0;
    if (bf16) {
        uint16_t *to = out;
        for (int64_t i = 0; i < d; i++) {
            to[i] = to_bf16((float)x[i]);
            double gone = x[i] - (double)of_bf16(to[i]);
            squares += x[i] * x[i];
            apart += gone * gone;
        }
        memset(to + d, 0, (size_t)(width - d) * 2);
    } else {
        float *to = out;
        for (int64_t i = 0; i < d; i++) {
            to[i] = (float)x[i];
            double gone = x[i] - (double)to[i];
            squares += x[i] * x[i];
            apart += gone * gone;
        }
        memset(to + d, 0, (size_t)(width - d) * 4);
    }
    *length = sqrt(squares);
    *lost = sqrt(apart);
}

/* ---- what is called ------------------------------------------------------------------------------------------------------ */

/* the best kind of product that this CPU has */
EXPORT int near_kind(void) {
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return NONE;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl")))
        return AVX2;
    unsigned a, b, c, d;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    if ((d >> 22 & 1) && (d >> 24 & 1) && amx_allowed()) return AMX;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
    return a >> 5 & 1 ? AVX512_BF16 : AVX512;
}

/* n rows as panels: [(n + 31) / 32 * 2][width / 2 or width][16]; the bias (n + 31) / 32 * 32. lengths[0], [1]: the largest
 * of a row, and of what rounding took from one; [2]: the largest absolute bias. */
EXPORT int near_rows(int kind, const void *rows, int half, int64_t n, int64_t d, int64_t width, const double *mean,
                     void *panels, float *bias, double *lengths) {
    int bf16 = kind >= AVX512_BF16;
    size_t size = bf16 ? 2 : 4;
    double *x = malloc((size_t)d * 8);
    uint8_t *lines = malloc((size_t)width * size * LANES);
    if (!x || !lines) {
        free(x);
        free(lines);
        return 1;
    }
    int64_t whole = (n + GROUP - 1) / GROUP * GROUP, units = bf16 ? width / 2 : width;
    for (int64_t first = 0; first < whole; first += LANES) {
        for (int64_t i = 0; i < LANES; i++) {
            uint8_t *line = lines + i * width * (int64_t)size;
            if (first + i >= n) {
                memset(line, 0, (size_t)width * size);
                if (bias) bias[first + i] = -INFINITY;
                continue;
            }
            double length, lost, own = 0;
            less_mean((const uint8_t *)rows + (first + i) * d * (half ? 2 : 4), half, d, mean, x);
            rounded(x, d, width, bf16, line, &length, &lost);
            for (int64_t j = 0; j < d; j++) own += mean[j] * x[j];
            if (bias) bias[first + i] = (float)own;
            if (length > lengths[0]) lengths[0] = length;
            if (lost > lengths[1]) lengths[1] = lost;
            if (fabs(own) > lengths[2]) lengths[2] = fabs(own);
        }
        if (!panels) continue;
        const uint32_t *from = (const uint32_t *)lines;
        uint32_t *to = (uint32_t *)panels + first / LANES * units * LANES;
        for (int64_t k = 0; k < units; k++)
            for (int64_t i = 0; i < LANES; i++) to[k * LANES + i] = from[i * units + k];
    }
    free(x);
    free(lines);
    return 0;
}

/* Queries (n, d) as they are multiplied (n, width), their lengths and what rounding took from each. */
EXPORT int near_queries(int kind, const float *queries, int64_t n, int64_t d, int64_t width, const double *mean, void *out,
                        double *lengths, double *lost) {
    int bf16 = kind >= AVX512_BF16;
    double *x = malloc((size_t)d * 8);
    if (!x) return 1;
    for (int64_t q = 0; q < n; q++) {
        less_mean(queries + q * d, 0, d, mean, x);
        rounded(x, d, width, bf16, (uint8_t *)out + q * width * (bf16 ? 2 : 4), lengths + q, lost + q);
    }
    free(x);
    return 0;
}

/* Pass queries (a multiple of 32) over rows (a multiple of 32) in panels, the first of which is number `row`. */
EXPORT int near_scan(int kind, const void *queries, int64_t n, int64_t width, const void *panels, const float *bias,
                     int64_t rows, int64_t row, float *least, int32_t *count, const float *slack, int32_t *numbers,
                     float *found, int64_t k, int64_t room) {
    Kept kept = {least, count, slack, numbers, found, k, room};
    Product product = kind == AMX ? product_amx : kind == AVX512_BF16 ? product_bf16 : kind == AVX512 ? product_avx512 : product_avx2;
    Keep keep = kind == AVX2 ? keep_avx2 : keep_avx512;
    int64_t bytes = width * (kind >= AVX512_BF16 ? 2 : 4);
    float scores[GROUP * GROUP] __attribute__((aligned(64)));
    float *work = malloc((size_t)room * 4);
    if (!work) return 1;
    if (kind == AMX) tiles(1);
    for (int64_t strip = 0; strip < rows; strip += STRIP)
        for (int64_t q = 0; q < n; q += GROUP)
            for (int64_t r = strip; r < strip + STRIP && r < rows; r += GROUP) {
                product((const uint8_t *)queries + q * bytes, (const uint8_t *)panels + r * bytes, width, scores);
                keep(&kept, q, scores, bias + r, (int32_t)(row + r), work);
            }
    if (kind == AMX) tiles(0);
    free(work);
    return 0;
}

static int by_key(const void *a, const void *b) {
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return one < other ? -1 : one > other;
}

/* falling score, then rising row, as one number */
static inline uint64_t key_of(float score, int32_t row) {
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~bits << 32 | (uint32_t)row;
}

static inline float score_of(uint64_t key) {
    uint32_t bits = ~(uint32_t)(key >> 32);
    float score;
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    memcpy(&score, &bits, 4);
    return score;
}

/* Exact scores and rows of the k best of what was kept for n queries. count[q] is CROWDED where a query was given up, and
 * becomes WRONG where a score was further off than its bound allows: such a query has no answer here. */
EXPORT int near_finish(int kind, const float *queries, int64_t n, int64_t d, const void *rows, int half, const double *mean,
                       float *least, int32_t *count, const float *slack, int32_t *numbers, float *found, int64_t k,
                       int64_t room, float *scores, int64_t *best) {
    Kept kept = {least, count, slack, numbers, found, k, room};
    double (*dot)(const double *, const void *, int, int64_t) = kind == AVX2 ? dot_avx2 : dot_avx512;
    double *x = malloc((size_t)d * 8);
    float *work = malloc((size_t)room * 4);
    uint64_t *keys = malloc((size_t)room * 8);
    int failed = !x || !work || !keys;
    for (int64_t q = 0; q < n && !failed; q++) {
        if (count[q] < 0) continue;
        compact(&kept, q, work);
        double offset = 0;
        for (int64_t j = 0; j < d; j++) {
            x[j] = queries[q * d + j];
            offset += x[j] * mean[j];
        }
        for (int64_t i = 0; i < count[q]; i++) {
            int64_t row = numbers[q * room + i];
            double exact = dot(x, (const uint8_t *)rows + row * d * (half ? 2 : 4), half, d);
            if (!(fabs(exact - offset - (double)found[q * room + i]) <= 0.5 * slack[q])) {
                count[q] = WRONG;
                break;
            }
            keys[i] = key_of((float)exact, (int32_t)row);
        }
        if (count[q] < k) {
            if (count[q] >= 0) count[q] = WRONG;
            continue;
        }
        qsort(keys, (size_t)count[q], 8, by_key);
        for (int64_t i = 0; i < k; i++) {
            scores[q * k + i] = score_of(keys[i]);
            best[q * k + i] = (int64_t)(uint32_t)keys[i];
        }
    }
    free(x);
    free(work);
    free(keys);
    return failed;
}

#else /* another CPU or system: nothing of this works there, and `near_kind` says so */

EXPORT int near_kind(void) { return NONE; }

#endif
