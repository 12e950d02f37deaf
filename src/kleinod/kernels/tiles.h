/* What products and attention share: tiles in memory, as AMX reads them, and their sizes.

   Compiled for AVX512 and AMX; what is AMX's is called where the processor has it. Source of the
   instructions: Intel's Intrinsics Guide. */

#pragma once

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define NATIVE __attribute__((target(                              \
    "amx-tile,amx-bf16,amx-int8,avx512f,avx512bw,avx512dq,avx512vl," \
    "avx512bf16,avx512vnni,prfchw")))

enum {
    LINE = 64,          /* bytes of a tile's row, and of a line of the cache */
    TILE = 16 * LINE,   /* bytes of a tile */
    PAIR = 2 * TILE,    /* two tiles one below the other: 32 rows */
    SUMS = 4 * 256,     /* numbers of 32 x 32 sums */
};

/* Eight full tiles; oneDNN asks what is configured before it multiplies, so it is put back. */
struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

NATIVE static void configure(int has_amx, struct config *before) {
    if (!has_amx)
        return;
    struct config ours = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        ours.row_bytes[i] = LINE;
        ours.rows[i] = 16;
    }
    _tile_storeconfig(before);
    _tile_loadconfig(&ours);
}

NATIVE static void restore(int has_amx, const struct config *before) {
    if (!has_amx)
        return;
    if (before->palette)
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* 16 x 16 words of 32 bits: pairs, then fours, then eights change places. */
NATIVE static inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    }
}

/* 16 rows, those behind the last as zeros, into every second tile. */
NATIVE static void pack_rows(
    const uint8_t *x, long stride, long rows, long depth, uint8_t *to)
{
    __m512i r[16];
    for (long t = 0; t < depth; t++) {
        for (int i = 0; i < 16; i++)
            r[i] = i < rows ? _mm512_loadu_si512(x + i * stride + t * LINE)
                            : _mm512_setzero_si512();
        transpose(r);
        for (int i = 0; i < 16; i++)
            _mm512_store_si512(to + t * PAIR + i * LINE, r[i]);
    }
}

/* 32 rows of w, deep tiles each, as pairs of tiles. A little of every row at a time: reading
   so many streams the machine prefetches well, and the writes stay near each other. */
NATIVE static void copy_rows(const uint8_t *w, long stride, long deep, uint8_t *to) {
    enum { RUN = 4 };
    for (long first = 0; first < deep; first += RUN) {
        long end = first + RUN < deep ? first + RUN : deep;
        for (int i = 0; i < 32; i++)
            for (long t = first; t < end; t++)
                _mm512_store_si512(
                    to + t * PAIR + i * LINE, _mm512_loadu_si512(w + i * stride + t * LINE));
    }
}

/* Of 32 x 32 sums those of 16 rows of x: 32 numbers of each, in two registers. */
NATIVE static inline void turn(const float *sums, int half, __m512i left[16], __m512i right[16]) {
    for (int i = 0; i < 16; i++) {
        left[i] = _mm512_load_si512(sums + half * 256 + i * 16);
        right[i] = _mm512_load_si512(sums + 512 + half * 256 + i * 16);
    }
    transpose(left);
    transpose(right);
}

NATIVE static inline void store_bfloat16(uint16_t *out, __m512 left, __m512 right) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(right, left));
}
