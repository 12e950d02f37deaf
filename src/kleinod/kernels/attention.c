/* softmax(q k^T * scale) v of bfloat16 numbers, for heads of up to 128 columns.

   The keys of a head and its values, transposed, are brought into tiles once. Then, for QUERIES
   queries and KEYS keys at a time, so that both stay in a core's second-level cache:

       scores (keys x queries) = k q^T,  p = exp(scores * scale - largest),
       sums (columns x queries) = sums * exp(largest before - largest) + v^T p,

   where `largest` is that of each query so far (Milakov and Gimelshein, 2018; Dao et al., 2022).
   Scores, exponentials and sums are float32; p is rounded to bfloat16 to be multiplied. So many keys
   are taken at a time, and rounded there, as in PyTorch 2.13's kernel: results differ by the order
   of sums alone. Queries lie along the registers' lanes, so that nothing is summed across them,
   and a key's scores become the rows that the second product reads without being turned. */

#if defined(__x86_64__) && defined(__linux__)

#include "multiply.h"
#include "tiles.h"

#include <math.h>

enum {
    QUERIES = 256,
    KEYS = 512,
    MOST_COLUMNS = 128,
    PANELS = KEYS / 32,
    HALVES = 2, /* of 32 queries, 16 each */
};

/* below every score, and finite: its difference to itself is 0 */
static const float LOWEST = -1.0e30f;

/* Strides in numbers; one batch. Rows of q, k, v and out are of `columns` numbers, each head's. */
struct attention {
    const uint16_t *q, *k, *v;
    uint16_t *out;
    uint8_t *tiles;   /* kleinod_attention_bytes */
    uint8_t *scratch; /* threads * kleinod_attention_scratch_bytes */
    long length, heads, columns;
    long q_token, q_head, k_token, k_head, v_token, v_head, out_token, out_head;
    long has_amx, threads;
    float scale;
};

/* A thread's: 32 queries at a time share scores and p. */
struct working {
    float scores[PANELS][SUMS];
    uint8_t p[PANELS][PAIR];
    uint8_t q[QUERIES / 32][MOST_COLUMNS / 32][PAIR];
    float sums[QUERIES / 32][MOST_COLUMNS / 32][SUMS], more[SUMS];
    float largest[QUERIES / 32][HALVES][16], total[QUERIES / 32][HALVES][16];
    uint16_t rows[32][MOST_COLUMNS]; /* the last rows, with zeros behind them */
};

static long panels_of(const struct attention *a) { return (a->length + 31) / 32; }

long kleinod_attention_scratch_bytes(void) {
    return ((long)sizeof(struct working) + 63) / 64 * 64;
}

/* Keys, and as many values, of all heads. */
long kleinod_attention_bytes(long length, long heads, long columns) {
    return 2 * heads * ((length + 31) / 32) * (columns / 32) * PAIR;
}

/* 32 rows from the first on; where there are fewer, a copy with zeros. */
static const uint16_t *whole_rows(
    const struct attention *a, const uint16_t *rows, long *stride, long first, struct working *own)
{
    long count = a->length - first;
    if (count >= 32)
        return rows + first * *stride;
    memset(own->rows, 0, sizeof own->rows);
    for (long i = 0; i < count; i++)
        memcpy(own->rows[i], rows + (first + i) * *stride, (size_t)a->columns * 2);
    *stride = MOST_COLUMNS;
    return own->rows[0];
}

/* 32 keys by 32 columns as two tiles of 16 columns by 32 keys. */
NATIVE static void pack_values(const uint16_t *v, long stride, uint8_t *to) {
    /* numbers of two keys side by side: of the columns 0 to 15, and 16 to 31 */
    uint16_t order[2][32];
    for (int i = 0; i < 32; i++) {
        order[0][i] = (uint16_t)(i / 2 + i % 2 * 32);
        order[1][i] = (uint16_t)(16 + i / 2 + i % 2 * 32);
    }
    for (int half = 0; half < 2; half++) {
        __m512i r[16], which = _mm512_loadu_si512(order[half]);
        for (int i = 0; i < 16; i++)
            r[i] = _mm512_permutex2var_epi16(
                _mm512_loadu_si512(v + 2 * i * stride), which,
                _mm512_loadu_si512(v + (2 * i + 1) * stride));
        transpose(r);
        for (int i = 0; i < 16; i++)
            _mm512_store_si512(to + half * TILE + i * LINE, r[i]);
    }
}

/* Keys and values of one panel of 32 keys of a head. */
NATIVE static void pack_panel(
    const struct attention *a, long head, long panel, struct working *own)
{
    long deep = a->columns / 32, panels = panels_of(a), stride = a->k_token;
    uint8_t *keys = a->tiles + head * 2 * panels * deep * PAIR;
    uint8_t *values = keys + panels * deep * PAIR;
    const uint16_t *k = whole_rows(a, a->k + head * a->k_head, &stride, 32 * panel, own);
    copy_rows((const uint8_t *)k, 2 * stride, deep, keys + panel * deep * PAIR);
    stride = a->v_token;
    const uint16_t *v = whole_rows(a, a->v + head * a->v_head, &stride, 32 * panel, own);
    for (long j = 0; j < deep; j++)
        pack_values(v + 32 * j, stride, values + (j * panels + panel) * PAIR);
}

/* e^x for x up to 0, as PyTorch's attention computes it for bfloat16, bit for bit: of y = x log2 e
   the number whose bits are 2^23 (y + 127) is 2^whole (1 + rest), and 1 + rest - P(rest) is nearly
   2^rest. It is 1e-4 off, a twentieth of the rounding to bfloat16 which follows. (Malossi et al.,
   2015; the coefficients: fexp_u20 of PyTorch's vec512_float.h.) What is no number stays so. */
NATIVE static inline __m512 exponential(__m512 x) {
    __m512 y = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 rest = _mm512_sub_ps(y, _mm512_floor_ps(y)), p = _mm512_set1_ps(-0.07920424f);
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(-0.22433836f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.30354260f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(1.0703435e-4f));
    y = _mm512_fmadd_ps(_mm512_sub_ps(y, p), _mm512_set1_ps(0x1p23f), _mm512_set1_ps(0x1.fcp29f));
    __mmask16 is_no_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.336544f), _CMP_NLT_UQ);
    __m512 power = _mm512_castsi512_ps(_mm512_maskz_cvttps_epi32(is_no_zero, y));
    return _mm512_mask_mov_ps(power, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

/* e^x, the last bit aside; most are 0 or 1. */
NATIVE static inline __m512 exact(__m512 x) {
    float each[16];
    _mm512_storeu_ps(each, x);
    for (int i = 0; i < 16; i++)
        each[i] = each[i] < -104.0f ? 0.0f : each[i] == 0.0f ? 1.0f : expf(each[i]);
    return _mm512_loadu_ps(each);
}

/* PyTorch has the quick one for whole registers of 16 keys. */
NATIVE static inline __m512 weight(__m512 x, int is_whole) {
    return is_whole ? exponential(x) : exact(x);
}

/* The scores of 16 queries and 16 keys, the first of them given. */
static inline float *scores_of(struct working *own, long key, int half) {
    return own->scores[key / 32] + key % 32 / 16 * 512 + half * 256;
}

/* What is no key gets no weight: rows behind the last, up to a whole panel. */
static void leave_out(struct working *own, long count) {
    for (long key = count; key % 32; key++)
        for (int half = 0; half < HALVES; half++)
            for (int i = 0; i < 16; i++)
                scores_of(own, key, half)[key % 16 * 16 + i] = LOWEST;
}

/* Scores to p for 16 queries; what the sums so far must be multiplied by. */
NATIVE static __m512 exponentials(
    const struct attention *a, struct working *own, long some, int half, long count)
{
    long keys = (count + 31) / 32 * 32;
    __m512 before = _mm512_load_ps(own->largest[some][half]), largest = before;
    for (long key = 0; key < keys; key += 16) {
        const float *score = scores_of(own, key, half);
        for (int i = 0; i < 16; i++)
            largest = _mm512_max_ps(largest, _mm512_load_ps(score + 16 * i));
    }
    __m512 scale = _mm512_set1_ps(a->scale), total = _mm512_setzero_ps();
    __m512 offset = _mm512_mul_ps(largest, scale);
    for (long key = 0; key < keys; key += 16) {
        const float *score = scores_of(own, key, half);
        uint8_t *to = own->p[key / 32] + half * TILE + key % 32 / 2 * LINE;
        int is_whole = key + 16 <= count;
        for (int i = 0; i < 16; i += 2) {
            __m512 even = _mm512_load_ps(score + 16 * i), odd = _mm512_load_ps(score + 16 * i + 16);
            even = weight(_mm512_sub_ps(_mm512_mul_ps(even, scale), offset), is_whole);
            odd = weight(_mm512_sub_ps(_mm512_mul_ps(odd, scale), offset), is_whole);
            total = _mm512_add_ps(total, _mm512_add_ps(even, odd));
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
            __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
            _mm512_store_si512(to + i / 2 * LINE, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    __m512 factor = exact(_mm512_sub_ps(_mm512_mul_ps(before, scale), offset));
    __m512 so_far = _mm512_mul_ps(_mm512_load_ps(own->total[some][half]), factor);
    _mm512_store_ps(own->total[some][half], _mm512_add_ps(so_far, total));
    _mm512_store_ps(own->largest[some][half], largest);
    return factor;
}

/* The values weighed by p; to the sums so far, times their factors, as they are complete. */
NATIVE static void add_values(
    const struct attention *a, struct working *own, long some, const uint8_t *values, long blocks,
    const __m512 *factor)
{
    const struct lines nowhere = {0, 0, 0};
    for (long j = 0; j < a->columns / 32; j++) {
        struct operand v = {values + j * panels_of(a) * PAIR, PAIR, LINE, 0, {0, 0, 0}};
        float *sums = own->sums[some][j], *more = factor ? own->more : sums;
        multiply_panel(a->has_amx, 0, &v, own->p[0], blocks, more, 1, &nowhere);
        for (int i = 0; i < SUMS && factor; i += 16) {
            __m512 before = _mm512_mul_ps(_mm512_load_ps(sums + i), factor[i / 256 % 2]);
            _mm512_store_ps(sums + i, _mm512_add_ps(before, _mm512_load_ps(more + i)));
        }
    }
}

/* 32 queries against some keys, from a whole panel on. */
NATIVE static void meet(
    const struct attention *a, struct working *own, long some, const uint8_t *keys,
    const uint8_t *values, long first)
{
    long deep = a->columns / 32, count = a->length - first;
    count = count < KEYS ? count : KEYS;
    long blocks = (count + 31) / 32;
    const struct lines nowhere = {0, 0, 0};
    for (long i = 0; i < blocks; i++) {
        struct operand k = {keys + (first / 32 + i) * deep * PAIR, PAIR, LINE, 0, {0, 0, 0}};
        multiply_panel(a->has_amx, 0, &k, own->q[some][0], deep, own->scores[i], 1, &nowhere);
    }
    leave_out(own, count);
    __m512 factor[HALVES];
    for (int half = 0; half < HALVES; half++)
        factor[half] = exponentials(a, own, some, half, count);
    add_values(a, own, some, values + first / 32 * PAIR, blocks, first ? factor : 0);
}

NATIVE static void write_queries(
    const struct attention *a, struct working *own, long some, long head, long row)
{
    for (long j = 0; j < a->columns / 32; j++)
        for (int half = 0; half < HALVES; half++) {
            __m512i left[16], right[16];
            turn(own->sums[some][j], half, left, right);
            for (long i = 0; i < 16 && row + 16 * half + i < a->length; i++) {
                __m512 by = _mm512_set1_ps(1.0f / own->total[some][half][i]);
                uint16_t *out = a->out + (row + 16 * half + i) * a->out_token + head * a->out_head;
                store_bfloat16(out + 32 * j, _mm512_mul_ps(_mm512_castsi512_ps(left[i]), by),
                               _mm512_mul_ps(_mm512_castsi512_ps(right[i]), by));
            }
        }
}

/* Up to QUERIES queries of a head, from the first on. */
NATIVE static void answer(const struct attention *a, long head, long first, struct working *own) {
    long deep = a->columns / 32, panels = panels_of(a), rows = a->length - first;
    const uint8_t *keys = a->tiles + head * 2 * panels * deep * PAIR;
    rows = rows < QUERIES ? rows : QUERIES;
    for (long i = 0; i < (rows + 31) / 32 * 2; i++)
        pack_rows((const uint8_t *)(a->q + head * a->q_head + (first + 16 * i) * a->q_token),
                  2 * a->q_token, rows - 16 * i, deep, own->q[i / 2][0] + i % 2 * TILE);
    for (long i = 0; i < (rows + 31) / 32; i++)
        for (int half = 0; half < HALVES; half++) {
            _mm512_store_ps(own->largest[i][half], _mm512_set1_ps(LOWEST));
            _mm512_store_ps(own->total[i][half], _mm512_setzero_ps());
        }
    for (long key = 0; key < a->length; key += KEYS)
        for (long i = 0; i < (rows + 31) / 32; i++)
            meet(a, own, i, keys, keys + panels * deep * PAIR, key);
    for (long i = 0; i < (rows + 31) / 32; i++)
        write_queries(a, own, i, head, first + 32 * i);
}

NATIVE void kleinod_attention(const struct attention *a) {
    long panels = panels_of(a), parts = (a->length + QUERIES - 1) / QUERIES;
#pragma omp parallel num_threads(a->threads)
    {
        struct config before;
        configure(a->has_amx, &before);
        struct working *own =
            (void *)(a->scratch + omp_get_thread_num() * kleinod_attention_scratch_bytes());
#pragma omp for schedule(static)
        for (long i = 0; i < a->heads * panels; i++)
            pack_panel(a, i / panels, i % panels, own);
#pragma omp for schedule(dynamic, 1)
        for (long i = 0; i < a->heads * parts; i++)
            answer(a, i / parts, i % parts * QUERIES, own);
        restore(a->has_amx, &before);
    }
}

#endif
