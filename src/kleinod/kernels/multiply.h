/* 32 x 32 sums over tiles of the inner dimension: w's rows by x's rows, on AMX or by AVX512.

   Both read the same tiles (tiles.h): of w 16 rows of 64 bytes of the inner dimension; of x the
   same turned, 16 rows of 4 bytes of it for 16 rows of x. Sums of a tile are 16 rows of w by 16 of
   x. Each adds its terms in the order of the inner dimension.

   int8 on AMX is signed by signed; AVX512 has unsigned by signed only. So there x's codes have 128
   added, and 128 times the sum of w's row is taken off again: `starts`, one for each row of w. */

#pragma once

#include "tiles.h"

/* Where the sums go later: lines that are fetched for writing meanwhile. */
struct lines {
    const uint8_t *first;
    long stride, count; /* bytes between them, and how many; 0: they go nowhere */
};

NATIVE static inline void fetch(const struct lines *to, long i) {
    if (i < to->count)
        __builtin_prefetch(to->first + i * to->stride, 1, 2);
}

/* Four tiles of sums, which two tiles of w and two of x feed. */
#define MULTIPLY_ON_TILES(NAME, DOT)                                                       \
    NATIVE static inline void NAME(                                                        \
        const uint8_t *w, const uint8_t *x, long deep, float *sums, int is_first,          \
        const struct lines *to)                                                            \
    {                                                                                      \
        if (is_first) {                                                                    \
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);                    \
        } else {                                                                           \
            _tile_loadd(0, sums, LINE); _tile_loadd(1, sums + 256, LINE);                  \
            _tile_loadd(2, sums + 512, LINE); _tile_loadd(3, sums + 768, LINE);            \
        }                                                                                  \
        for (long t = 0; t < deep; t++) {                                                  \
            fetch(to, t);                                                                  \
            _tile_loadd(4, w + t * PAIR, LINE); _tile_loadd(6, x + t * PAIR, LINE);        \
            _tile_loadd(7, x + t * PAIR + TILE, LINE);                                     \
            _tile_loadd(5, w + t * PAIR + TILE, LINE);                                     \
            DOT(0, 4, 6); DOT(1, 4, 7); DOT(2, 5, 6); DOT(3, 5, 7);                        \
        }                                                                                  \
        _tile_stored(0, sums, LINE); _tile_stored(1, sums + 256, LINE);                    \
        _tile_stored(2, sums + 512, LINE); _tile_stored(3, sums + 768, LINE);              \
    }

MULTIPLY_ON_TILES(tiles_bfloat16, _tile_dpbf16ps)
MULTIPLY_ON_TILES(tiles_int8, _tile_dpbssd)

/* By AVX512: 8 rows of w by 32 of x, whose sums are 16 registers. A number of w, four bytes of a
   row, is spread over a register and meets the same of all rows of x. NEAR tiles of both stay in
   the first-level cache while all rows of w pass, and what comes next is fetched meanwhile. */
enum { NEAR = 8 };

/* What 8 rows of w need on their way over some tiles. */
struct pass {
    const uint8_t *w, *x;
    long w_tile, w_row;    /* bytes from a tile of w to the next, and from a row */
    long tiles;
    float *sums;           /* 8 rows of the left tile; those of the right are 256 numbers behind */
    int is_first;
    const int32_t *starts; /* of the rows, or null: zeros */
    const uint8_t *soon;   /* a row of w whose lines come next, or null */
    const uint8_t *next;   /* lines of x that come next */
};

static inline int32_t word(const uint8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return four;
}

#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

#define LOAD(i)                                                                            \
    __m512i left##i = _mm512_setzero_si512(), right##i = left##i;                          \
    if (!pass->is_first) {                                                                 \
        left##i = _mm512_load_si512(pass->sums + 16 * i);                                  \
        right##i = _mm512_load_si512(pass->sums + 256 + 16 * i);                           \
    }                                                                                      \
    if (pass->starts) {                                                                    \
        left##i = _mm512_add_epi32(left##i, _mm512_set1_epi32(pass->starts[i]));           \
        right##i = _mm512_add_epi32(right##i, _mm512_set1_epi32(pass->starts[i]));         \
    }

#define STORE(i)                                                                           \
    _mm512_store_si512(pass->sums + 16 * i, left##i);                                      \
    _mm512_store_si512(pass->sums + 256 + 16 * i, right##i);

#define SPREAD(i) _mm512_set1_epi32(word((i < 4 ? upper : lower) + i % 4 * row))

#define DOT_BFLOAT16(i)                                                                    \
    {                                                                                      \
        __m512bh number = (__m512bh)SPREAD(i);                                             \
        left##i = (__m512i)_mm512_dpbf16_ps((__m512)left##i, number, (__m512bh)low);       \
        right##i = (__m512i)_mm512_dpbf16_ps((__m512)right##i, number, (__m512bh)high);    \
    }

#define DOT_INT8(i)                                                                        \
    {                                                                                      \
        __m512i number = SPREAD(i);                                                        \
        left##i = _mm512_dpbusd_epi32(left##i, low, number);                               \
        right##i = _mm512_dpbusd_epi32(right##i, high, number);                            \
    }

/* Not inlined, and its pointers hidden from the compiler in each round: with a pointer for each row
   it would run out of registers and keep them in the vectors'. */
#define PASS_BY_AVX512(NAME, DOT)                                                          \
    NATIVE static __attribute__((noinline)) void NAME(const struct pass *pass)             \
    {                                                                                      \
        EIGHT(LOAD)                                                                        \
        long row = pass->w_row;                                                            \
        for (long t = 0; t < pass->tiles; t++) {                                           \
            const uint8_t *upper = pass->w + t * pass->w_tile, *lower = upper + 4 * row;   \
            const uint8_t *x = pass->x + t * PAIR, *next = pass->next + t * PAIR;          \
            if (pass->soon)                                                                \
                __builtin_prefetch(pass->soon + t * LINE, 0, 2);                           \
            for (const uint8_t *end = x + TILE; x != end; x += LINE) {                     \
                __m512i low = _mm512_load_si512(x), high = _mm512_load_si512(x + TILE);    \
                __builtin_prefetch(next, 0, 3);                                            \
                EIGHT(DOT)                                                                 \
                upper += 4;                                                                \
                lower += 4;                                                                \
                next += LINE / 2;                                                          \
                __asm__("" : "+r"(upper), "+r"(lower), "+r"(next));                        \
            }                                                                              \
        }                                                                                  \
        EIGHT(STORE)                                                                       \
    }

PASS_BY_AVX512(pass_bfloat16, DOT_BFLOAT16)
PASS_BY_AVX512(pass_int8, DOT_INT8)

#undef EIGHT
#undef LOAD
#undef STORE
#undef SPREAD
#undef DOT_BFLOAT16
#undef DOT_INT8

/* Rows of w that will be wanted soon, `stride` bytes apart; at most four are fetched. */
struct ahead {
    const uint8_t *first;
    long stride, rows;
};

/* 32 rows of w as they lie in memory, and what else a product by them needs. */
struct operand {
    const uint8_t *w;
    long tile, row; /* bytes from a tile to the next, and from a row */
    const int32_t *starts;
    struct ahead soon;
};

NATIVE static void multiply_by_avx512(
    int is_int8, const struct operand *w, const uint8_t *x, long deep, float *sums, int is_first,
    const struct lines *to)
{
    for (long near = 0; near < deep; near += NEAR) {
        long tiles = deep - near < NEAR ? deep - near : NEAR;
        for (long t = near; t < near + tiles; t++)
            fetch(to, t);
        for (long i = 0; i < 4; i++) {
            struct pass pass = {
                w->w + near * w->tile + 8 * i * w->row, x + near * PAIR, w->tile, w->row, tiles,
                sums + i / 2 * 512 + i % 2 * 128, is_first && !near, 0, 0,
                x + (near + NEAR) * PAIR + 8 * i * LINE};
            if (w->starts && !near)
                pass.starts = w->starts + 8 * i;
            if (i < w->soon.rows)
                pass.soon = w->soon.first + i * w->soon.stride + near * LINE;
            (is_int8 ? pass_int8 : pass_bfloat16)(&pass);
        }
    }
}

NATIVE static inline void multiply_panel(
    int has_amx, int is_int8, const struct operand *w, const uint8_t *x, long deep, float *sums,
    int is_first, const struct lines *to)
{
    if (!has_amx)
        multiply_by_avx512(is_int8, w, x, deep, sums, is_first, to);
    else if (is_int8)
        tiles_int8(w->w, x, deep, sums, is_first, to);
    else
        tiles_bfloat16(w->w, x, deep, sums, is_first, to);
}
