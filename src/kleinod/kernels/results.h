/* What becomes of a product's sums: rounded and written, or used up on the way.

   A product may end in what a transformer does to its columns next, while they are in the first
   cache and before they are written:

     GATED_SUM  added + gate * y,
     SWIGLU     silu(y) * value, of the columns of two weights,
     TURNED     RMSNorm of each head of y, then its adjacent pairs turned by the position's angles.

   Numbers are rounded to bfloat16 where separate passes would have written them. */

#pragma once

#include "tiles.h"

enum { PLAIN, GATED_SUM, SWIGLU, TURNED };
enum { MOST_GROUPED = 4 }; /* panels of 32 columns that are written together */

/* x in tiles, w and what is computed; all sizes in numbers, unless they say otherwise */
struct product {
    const uint8_t *x;   /* from pack: for each 32 rows, `depth` pairs of tiles */
    const uint8_t *w;   /* bfloat16: rows; int8: for each 32 rows, `depth` pairs of tiles */
    const uint8_t *value; /* SWIGLU: w of the other factor */
    void *out;          /* bfloat16, or float32 from int8 if is_wide */
    uint8_t *scratch;   /* threads * kleinod_scratch_bytes */
    const float *w_scale, *x_scale, *value_scale; /* int8: of each column and row of out */
    const uint16_t *added;          /* GATED_SUM: rows like out's */
    const uint16_t *gate;           /* one row for each picture, or null: a plain sum */
    const uint16_t *norm;           /* TURNED: the norm's scale, (head) */
    const float *turns;             /* (length, head / 2) pairs of cosine and sine */
    long m, n, depth;   /* depth: tiles of the inner dimension */
    long out_stride, added_stride, gate_stride; /* numbers between rows */
    long head, length;  /* columns of a head; rows of a picture */
    long then;          /* one of the names above */
    long is_wide;
    long has_amx;
    long threads;
    float eps;
};

static inline long arms_of(const struct product *p) { return p->then == SWIGLU ? 2 : 1; }
static inline long group_of(const struct product *p) {
    return p->then == TURNED ? p->head / 32 : 1;
}
static inline long stride_of(const struct product *p) {
    return p->out_stride * (p->is_wide ? 4 : 2);
}

static inline uint8_t *at(const struct product *p, long row, long column) {
    return (uint8_t *)p->out + row * stride_of(p) + column * (p->is_wide ? 4 : 2);
}

NATIVE static inline __m512 widened(const uint16_t *x) {
    __m512i half = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(half, 16));
}

/* Sixteen numbers of a row as float32. */
NATIVE static inline __m512 sixteen(const void *x, long i, int is_float) {
    return is_float ? _mm512_loadu_ps((const float *)x + i) : widened((const uint16_t *)x + i);
}

/* To bfloat16 and back. */
NATIVE static inline __m512 rounded(__m512 x) {
    __m512i half = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(half, 16));
}

NATIVE static inline __m512 inverse_root(float x) {
    return _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(_mm512_set1_ps(x)));
}

/* Rows of results: 16 of the left 16 columns of a panel, and of the right. */
struct panel {
    __m512i left[16], right[16];
};

/* Sums of 16 rows; of int8 times their scales, where of rows behind the last nothing is read. */
NATIVE static inline void result(
    const struct product *p, const float *sums, int half, long row, const float *w_scale,
    struct panel *y)
{
    turn(sums, half, y->left, y->right);
    if (!w_scale)
        return;
    __m512 low = _mm512_loadu_ps(w_scale), high = _mm512_loadu_ps(w_scale + 16);
    for (long i = 0; i < 16 && row + i < p->m; i++) {
        __m512 scale = _mm512_set1_ps(p->x_scale[row + i]);
        __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(y->left[i]), low);
        __m512 b = _mm512_mul_ps(_mm512_cvtepi32_ps(y->right[i]), high);
        y->left[i] = _mm512_castps_si512(_mm512_mul_ps(a, scale));
        y->right[i] = _mm512_castps_si512(_mm512_mul_ps(b, scale));
    }
}

#define LEFT(y, i) _mm512_castsi512_ps((y).left[i])
#define RIGHT(y, i) _mm512_castsi512_ps((y).right[i])

NATIVE static void write_plain(
    const struct product *p, const struct panel *y, long row, long column)
{
    for (long i = 0; i < 16 && row + i < p->m; i++) {
        uint8_t *out = at(p, row + i, column);
        if (p->is_wide) {
            _mm512_storeu_ps((float *)out, LEFT(*y, i));
            _mm512_storeu_ps((float *)out + 16, RIGHT(*y, i));
        } else {
            store_bfloat16((uint16_t *)out, LEFT(*y, i), RIGHT(*y, i));
        }
    }
}

/* added + gate * y of sixteen columns. */
NATIVE static inline __m512 gated(const uint16_t *added, const uint16_t *gate, __m512 y) {
    y = rounded(y);
    return _mm512_add_ps(widened(added), gate ? rounded(_mm512_mul_ps(widened(gate), y)) : y);
}

NATIVE static void write_gated_sum(
    const struct product *p, const struct panel *y, long row, long column)
{
    for (long i = 0; i < 16 && row + i < p->m; i++) {
        const uint16_t *added = p->added + (row + i) * p->added_stride + column, *gate = p->gate;
        if (gate)
            gate += (row + i) / p->length * p->gate_stride + column;
        store_bfloat16((uint16_t *)at(p, row + i, column), gated(added, gate, LEFT(*y, i)),
                       gated(added + 16, gate ? gate + 16 : gate, RIGHT(*y, i)));
    }
}

/* x / (1 + 2^(-x log2 e)). The power's whole part goes to the exponent, the rest by its series:
   6e-7 off where x is within 10. What is no number stays so. */
NATIVE static inline __m512 silu(__m512 x) {
    static const float series[] = {1.5403530e-4f, 1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f,
                                   0.24022651f,   0.69314718f,   1.0f};
    __m512 power = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f));
    power = _mm512_max_ps(_mm512_set1_ps(-200), _mm512_min_ps(_mm512_set1_ps(200), power));
    __m512 whole = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(power, whole), sum = _mm512_set1_ps(series[0]);
    for (int i = 1; i < 7; i++)
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(series[i]));
    __m512 below = _mm512_add_ps(_mm512_set1_ps(1), _mm512_scalef_ps(sum, whole));
    return _mm512_div_ps(x, below);
}

NATIVE static inline __m512 activated(__m512 gate, __m512 value) {
    return _mm512_mul_ps(rounded(silu(rounded(gate))), rounded(value));
}

NATIVE static void write_swiglu(
    const struct product *p, const struct panel *gate, const struct panel *value, long row,
    long column)
{
    for (long i = 0; i < 16 && row + i < p->m; i++)
        store_bfloat16((uint16_t *)at(p, row + i, column),
                       activated(LEFT(*gate, i), LEFT(*value, i)),
                       activated(RIGHT(*gate, i), RIGHT(*value, i)));
}

/* x (a, b) to (a cos - b sin, a sin + b cos), of eight pairs. */
NATIVE static inline __m512 turned(__m512 x, const float *turns) {
    __m512 angle = _mm512_loadu_ps(turns), other = _mm512_permute_ps(x, 0xb1);
    __m512 crossed = _mm512_mul_ps(other, _mm512_movehdup_ps(angle));
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(angle), crossed);
}

/* A head's columns, 16 rows: divided by their root mean square, scaled, turned. */
NATIVE static void write_turned(const struct product *p, struct panel *y, long row, long column) {
    long panels = p->head / 32;
    for (long i = 0; i < 16 && row + i < p->m; i++) {
        const float *turns = p->turns + (row + i) % p->length * p->head;
        __m512 squares = _mm512_setzero_ps();
        for (long j = 0; j < panels; j++) {
            __m512 a = rounded(LEFT(y[j], i)), b = rounded(RIGHT(y[j], i));
            squares = _mm512_fmadd_ps(a, a, _mm512_fmadd_ps(b, b, squares));
        }
        float mean = _mm512_reduce_add_ps(squares) / (float)p->head + p->eps;
        __m512 size = inverse_root(mean);
        for (long j = 0; j < panels; j++) {
            __m512 a = rounded(_mm512_mul_ps(rounded(LEFT(y[j], i)), size));
            __m512 b = rounded(_mm512_mul_ps(rounded(RIGHT(y[j], i)), size));
            a = rounded(_mm512_mul_ps(a, widened(p->norm + 32 * j)));
            b = rounded(_mm512_mul_ps(b, widened(p->norm + 32 * j + 16)));
            store_bfloat16((uint16_t *)at(p, row + i, column + 32 * j),
                           turned(a, turns + 32 * j), turned(b, turns + 32 * j + 16));
        }
    }
}

/* The sums of a group of panels, from `column` of out on. */
NATIVE static void finish(const struct product *p, const float *sums, long row, long column) {
    struct panel y[MOST_GROUPED];
    const float *scale = p->w_scale ? p->w_scale + column : 0;
    for (int half = 0; half < 2 && row + 16 * half < p->m; half++) {
        long first = row + 16 * half;
        for (long j = 0; j < group_of(p); j++)
            result(p, sums + j * SUMS, half, first, scale ? scale + 32 * j : 0, y + j);
        if (p->then == SWIGLU)
            result(p, sums + SUMS, half, first, scale ? p->value_scale + column : 0, y + 1);
        if (p->then == PLAIN)
            write_plain(p, y, first, column);
        else if (p->then == GATED_SUM)
            write_gated_sum(p, y, first, column);
        else if (p->then == SWIGLU)
            write_swiglu(p, y, y + 1, first, column);
        else
            write_turned(p, y, first, column);
    }
}
