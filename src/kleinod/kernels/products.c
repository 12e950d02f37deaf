/* Matrix products: out (m, n) = x (m, k) times w (n, k) transposed, on AMX tiles or by AVX512.

   A tile of AMX is a register of 16 rows of 64 bytes; one instruction multiplies two of them and
   adds the 16 x 16 sums to a third, 32 terms of bfloat16 numbers or 64 of int8 at once. Two cores
   have a peak of 5.4 TFLOPS (bfloat16) where oneDNN 3.12 reaches 2; what holds both back is memory.
   By AVX512 the peak is 1.1 on two cores of a Zen 5, of which 0.95 are reached. So here

   - w, which is read once, stands for the rows and x, which is read over and over, for the columns
     of the sums: the rows of w need no transposition, and x is transposed once, by `pack`;
   - WIDE rows of w (for AMX a copy in tiles) stay in a core's second-level cache, while x streams
     past;
   - 32 x 32 sums live in registers over many tiles of the inner dimension, so that neither w nor x
     nor sums are read more often than that needs;
   - the line of the result that will be written is asked for while it is computed, and for AVX512
     the rows of w that come next.

   Every sum adds its terms in the order of k, whatever m, n and the number of threads: a product of
   some rows or columns has the same bits as those of the whole.

   Plain functions over pointers, called by ctypes (native.py), which owns all memory. Threads are
   OpenMP's, found in the library that PyTorch has loaded, so that both share one team. */

#if defined(__x86_64__) && defined(__linux__)

#include "multiply.h"
#include "results.h"
#include "tiles.h"

#include <sys/syscall.h>
#include <unistd.h>

enum {
    WIDE = 128,                     /* at most so many rows of w stay in the cache, in bfloat16 */
    DEEP = 96,                      /* tiles of the inner dimension: 128 rows are 0.8 MB */
    COPY = WIDE / 32 * DEEP * PAIR, /* bytes of those rows as tiles */
};

/* Asks Linux for the tiles' state, once a process; 0 if it agrees. */
int kleinod_enable_amx(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return (int)syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}

/* int8 takes half the memory: twice the rows, of half the tiles. */
static long deepest(int is_int8) { return is_int8 ? DEEP / 2 : DEEP; }
static long widest(int is_int8) { return is_int8 ? 2 * WIDE : WIDE; }

/* What comes next lies in that cache too, without AMX: half of the rows. */
static long kept(const struct product *p, int is_int8) {
    return widest(is_int8) / (p->has_amx ? 1 : 2);
}

/* What a thread needs for an m x depth: copied rows of w, and sums that wait for further terms. */
long kleinod_scratch_bytes(long m, long depth, int is_int8) {
    long count = depth > deepest(is_int8) ? (m + 31) / 32 * (widest(is_int8) / 32) : MOST_GROUPED;
    return COPY + count * SUMS * (long)sizeof(float);
}

/* x: m rows of depth * 64 bytes, stride bytes apart, into (m + 31) / 32 * depth pairs of tiles. */
NATIVE void kleinod_pack(
    const uint8_t *x, long stride, long m, long depth, uint8_t *to, long threads)
{
    long blocks = (m + 31) / 32 * 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < blocks; i++)
        pack_rows(x + i * 16 * stride, stride, m - i * 16, depth,
                  to + i / 2 * depth * PAIR + i % 2 * TILE);
}

/* A row's codes, and its scale: largest magnitude / 127, or 1 for zeros. */
NATIVE static float quantize_row(const void *x, long k, int is_float, long has_amx, int8_t *codes) {
    __m512i largest = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7fffffff);
    /* without the sign floats are ordered as whole numbers, and nan is the largest of all */
    for (long i = 0; i < k; i += 16)
        largest = _mm512_max_epi32(
            largest, _mm512_and_si512(_mm512_castps_si512(sixteen(x, i, is_float)), magnitude));
    int bits = _mm512_reduce_max_epi32(largest);
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    scale = bits ? scale / 127.0f : 1.0f;
    __m128i sign = _mm_set1_epi8(has_amx ? 0 : (char)128); /* turned, it adds 128 */
    for (long i = 0; i < k; i += 16) {
        __m512 quotient = _mm512_div_ps(sixteen(x, i, is_float), _mm512_set1_ps(scale));
        __m128i some = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(quotient));
        _mm_storeu_si128((__m128i *)(codes + i), _mm_xor_si128(some, sign));
    }
    return scale;
}

/* Rows that become int8 tiles with a scale each, modulated before that if there is a factor. */
struct rows {
    const uint8_t *x;   /* m rows of depth * 64 numbers, stride bytes apart */
    uint8_t *tiles;
    float *scale;
    int8_t *codes;      /* threads * 16 rows */
    float *wide;        /* threads * one row, to modulate */
    const uint16_t *factor, *shift; /* a row for each picture */
    long stride, m, depth, modulation_stride;
    long length;        /* rows of a picture */
    long is_float, has_amx, threads;
    float eps;
};

/* LayerNorm, times factor, plus shift, rounded after each. */
NATIVE static void modulate_row(const struct rows *p, long row, float *out) {
    const uint16_t *x = (const uint16_t *)(p->x + row * p->stride);
    const uint16_t *factor = p->factor + row / p->length * p->modulation_stride;
    const uint16_t *shift = p->shift + row / p->length * p->modulation_stride;
    long k = p->depth * LINE;
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (long i = 0; i < k; i += 16)
        sum = _mm512_add_ps(sum, widened(x + i));
    float mean = _mm512_reduce_add_ps(sum) / (float)k;
    for (long i = 0; i < k; i += 16) {
        __m512 away = _mm512_sub_ps(widened(x + i), _mm512_set1_ps(mean));
        squares = _mm512_fmadd_ps(away, away, squares);
    }
    float variance = _mm512_reduce_add_ps(squares) / (float)k;
    __m512 size = inverse_root(variance + p->eps);
    for (long i = 0; i < k; i += 16) {
        __m512 away = _mm512_sub_ps(widened(x + i), _mm512_set1_ps(mean));
        __m512 y = rounded(_mm512_mul_ps(away, size));
        y = rounded(_mm512_mul_ps(y, widened(factor + i)));
        _mm512_storeu_ps(out + i, rounded(_mm512_add_ps(y, widened(shift + i))));
    }
}

/* As kleinod_pack, from numbers that are quantised on the way. */
NATIVE void kleinod_quantize_pack(const struct rows *p) {
    long blocks = (p->m + 31) / 32 * 2, k = p->depth * LINE;
#pragma omp parallel for num_threads(p->threads) schedule(static)
    for (long i = 0; i < blocks; i++) {
        int8_t *own = p->codes + omp_get_thread_num() * 16 * k;
        float *wide = p->wide + omp_get_thread_num() * k;
        long rows = p->m - i * 16 < 16 ? p->m - i * 16 : 16;
        for (long row = 0; row < rows; row++) {
            const void *x = p->x + (i * 16 + row) * p->stride;
            if (p->factor)
                modulate_row(p, i * 16 + row, wide);
            p->scale[i * 16 + row] = quantize_row(
                p->factor ? wide : x, k, p->is_float || p->factor, p->has_amx,
                own + row * k);
        }
        pack_rows((uint8_t *)own, k, rows, p->depth,
                  p->tiles + i / 2 * p->depth * PAIR + i % 2 * TILE);
    }
}

/* 32 rows of w, or of value, as they lie in memory from the k-th tile on. */
static struct operand rows_of(const struct product *p, int is_int8, long arm, long row, long k) {
    const uint8_t *w = arm ? p->value : p->w;
    if (is_int8)
        return (struct operand){
            w + (row / 32 * p->depth + k) * PAIR, PAIR, LINE, 0, {0, 0, 0}};
    return (struct operand){
        w + (row * p->depth + k) * LINE, LINE, p->depth * LINE, 0, {0, 0, 0}};
}

/* -128 times the sums of 32 rows of w over deep tiles. */
NATIVE static void start_from(const uint8_t *w, long deep, int32_t starts[32]) {
    for (int i = 0; i < 32; i++) {
        __m512i sums = _mm512_setzero_si512();
        for (long t = 0; t < deep; t++)
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8((char)128),
                                       _mm512_loadu_si512(w + t * PAIR + i * LINE));
        starts[i] = -_mm512_reduce_add_epi32(sums);
    }
}

/* Of the 32 rows that come next, deep tiles each, a part for each of the blocks of x. */
static struct ahead part_of(
    const struct operand *next, int is_int8, long deep, long b, long blocks)
{
    long stride = is_int8 ? deep * LINE : next->row, run = b * 32 / blocks;
    return (struct ahead){next->w + run * stride, stride, (b + 1) * 32 / blocks - run};
}

/* Columns of out from the n-th on, as panels of 32 rows of w; and those that this thread will
   probably have next. */
struct share {
    long n, panels, next;
};

/* All rows of out in a share of its columns. The sums of a whole group are there when it is
   written: of gate and value, or of all columns of a head. */
NATIVE static void columns(
    const struct product *p, int is_int8, const struct share *own, uint8_t *copy, float *sums)
{
    long most = deepest(is_int8), blocks = (p->m + 31) / 32, arms = arms_of(p);
    long group = group_of(p) * arms, count = own->panels * arms, is_split = p->depth > most;
    int32_t *starts = (int32_t *)copy; /* int8 copies nothing */
    for (long k = 0; k < p->depth; k += most) {
        long deep = k + most < p->depth ? most : p->depth - k;
        int is_last = k + deep == p->depth;
        long then = is_last ? own->next : own->n;
        for (long i = 0; i < count; i++) {
            struct operand w = rows_of(p, is_int8, i % arms, own->n + 32 * (i / arms), k);
            if (is_int8 && !p->has_amx)
                start_from(w.w, deep, starts + 32 * i);
            if (!is_int8 && p->has_amx)
                copy_rows(w.w, w.row, deep, copy + i * deep * PAIR);
        }
        for (long b = 0; b < blocks; b++) {
            const uint8_t *x = p->x + (b * p->depth + k) * PAIR;
            long rows = p->m - 32 * b < 32 ? p->m - 32 * b : 32;
            for (long i = 0; i < count; i++) {
                long column = own->n + 32 * (i / arms), next = then + 32 * (i / arms);
                float *sum = sums + (is_split ? b * count + i : i % group) * SUMS;
                struct lines to = {at(p, 32 * b, column), stride_of(p), is_last ? rows : 0};
                struct operand w = rows_of(p, is_int8, i % arms, column, k);
                if (next < p->n && !p->has_amx) {
                    struct operand wanted =
                        rows_of(p, is_int8, i % arms, next, is_last ? 0 : k + deep);
                    w.soon = part_of(&wanted, is_int8, deep, b, blocks);
                }
                if (is_int8 && !p->has_amx)
                    w.starts = starts + 32 * i;
                else if (!is_int8 && p->has_amx)
                    w.w = copy + i * deep * PAIR;
                multiply_panel(p->has_amx, is_int8, &w, x, deep, sum, k == 0, &to);
                if (is_last && (i + 1) % group == 0)
                    finish(p, sum - (group - 1) * SUMS, 32 * b, column - 32 * (group / arms - 1));
            }
        }
    }
}

/* Takes the next share that is nobody's, from *free on: as much as a cache holds, and enough shares
   for every thread to get some; without AMX less and less towards the end, so that none waits long
   for the others (with AMX x's way through the cache would cost more). Whole heads. */
static struct share taken(const struct product *p, int is_int8, long *free) {
    long unit = 32 * group_of(p), most = kept(p, is_int8) / arms_of(p) / unit * unit, mine, left;
    most = most < unit ? unit : most;
#pragma omp critical(kleinod_shares)
    {
        mine = *free;
        left = p->has_amx ? p->n : p->n - mine;
        left = (left / (2 * p->threads) + unit - 1) / unit * unit;
        left = left < unit ? unit : left < most ? left : most;
        *free += left;
    }
    long end = mine + left < p->n ? mine + left : p->n;
    return (struct share){mine, (end - mine) / 32, mine + p->threads * left};
}

/* The whole product. A core that is slowed by others takes fewer of the shares. */
NATIVE static void multiply(const struct product *p, int is_int8) {
    long free = 0, size = kleinod_scratch_bytes(p->m, p->depth, is_int8);
#pragma omp parallel num_threads(p->threads)
    {
        struct config before;
        configure(p->has_amx, &before);
        uint8_t *copy = p->scratch + omp_get_thread_num() * size;
        float *sums = (float *)(copy + COPY);
        struct share own = taken(p, is_int8, &free);
        for (; own.n < p->n; own = taken(p, is_int8, &free))
            columns(p, is_int8, &own, copy, sums);
        restore(p->has_amx, &before);
    }
}

NATIVE void kleinod_bfloat16(const struct product *p) { multiply(p, 0); }

NATIVE void kleinod_int8(const struct product *p) { multiply(p, 1); }

#endif
