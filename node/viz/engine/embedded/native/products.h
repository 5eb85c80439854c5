// y = x W^T with W in bf16, stored in panels of 16 output columns and widened to float32 in
// registers: the same values as float32 with half of its memory traffic. Each output is one sum
// over k in order, for any number of rows. So a row's result is bit for bit independent of others.
#pragma once

#include "team.h"
#include "vectors.h"

namespace {

constexpr int kPanel = 16;  // output columns of a weight panel
constexpr long kTile = 6;  // rows of a tile: as many as keep their sums in registers
constexpr long kAhead = 1024;  // how many words ahead weights are prefetched
constexpr long kBlock = 8;  // tiles of a block: their inputs fit the level 2 cache

// Multiplies ROWS rows of x (packed k-major: x[k * ROWS + r]) with PANELS panels over the whole
// depth. The accumulators stay in registers. With few rows, several panels are taken together, so
// that there are enough independent sums to keep the multipliers busy. Never inlined: inside a
// worker's loop the compiler keeps fewer sums in registers, and it is a third slower.
template <int ROWS, int PANELS>
__attribute__((noinline)) void tile(const float* x, const uint32_t* panels, long depth, float* y, long y_stride,
          long columns) {
  Vec low[PANELS][ROWS], high[PANELS][ROWS];
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) low[p][r] = high[p][r] = Vec{};
  const uint32_t* from[PANELS];
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p) from[p] = panels + p * depth * 8;
  for (long k = 0; k < depth; ++k) {
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; ++p) {
      // The processor's own prefetcher stops at each page boundary.
      __builtin_prefetch(from[p] + k * 8 + kAhead);
      const Bits pair = *reinterpret_cast<const LooseBits*>(from[p] + k * 8);
      const Vec left = (Vec)(pair << 16), right = (Vec)(pair & 0xffff0000u);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const float value = x[k * ROWS + r];
        low[p][r] += left * value;
        high[p][r] += right * value;
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < PANELS; ++p)
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      float* to = y + r * y_stride + p * kPanel;
      const long left = columns - p * kPanel;
      if (left >= kPanel) {
        store(to, low[p][r]);
        store(to + 8, high[p][r]);
      } else {
        for (long c = 0; c < left; ++c) to[c] = c < 8 ? low[p][r][c] : high[p][r][c - 8];
      }
    }
}

template <int ROWS, int PANELS>
void strip(const float* x, const uint32_t* panels, long depth, float* y, long y_stride,
           long columns, long count) {
  long p = 0;
  for (; p + PANELS <= count; p += PANELS)
    tile<ROWS, PANELS>(x, panels + p * depth * 8, depth, y + p * kPanel, y_stride,
                       columns - p * kPanel);
  for (; p < count; ++p)
    tile<ROWS, 1>(x, panels + p * depth * 8, depth, y + p * kPanel, y_stride,
                  columns - p * kPanel);
}

void strip_of(long rows, const float* x, const uint32_t* panels, long depth, float* y,
              long y_stride, long columns, long count) {
  switch (rows) {
    case 6: return strip<6, 1>(x, panels, depth, y, y_stride, columns, count);
    case 5: return strip<5, 1>(x, panels, depth, y, y_stride, columns, count);
    case 4: return strip<4, 1>(x, panels, depth, y, y_stride, columns, count);
    case 3: return strip<3, 2>(x, panels, depth, y, y_stride, columns, count);
    case 2: return strip<2, 2>(x, panels, depth, y, y_stride, columns, count);
    default: return strip<1, 4>(x, panels, depth, y, y_stride, columns, count);
  }
}

// Divides the rows into tiles of kTile, and a last tile with the rest: small tiles have too few
// sums to keep both multipliers busy. Exception: 5 and 4 rows are faster than 6 and 3. The tiles
// are divided evenly into blocks of at most kBlock.
struct Tiles {
  long rows, count, blocks;
  explicit Tiles(long rows)
      : rows(rows), count((rows + kTile - 1) / kTile), blocks((count + kBlock - 1) / kBlock) {}
  long first(long block) const { return count * block / blocks; }
  long row(long tile) const {
    if (tile == count) return rows;
    return tile * kTile - (tile > 0 && tile == count - 1 && rows % kTile == 3);
  }
  long size(long tile) const { return row(tile + 1) - row(tile); }
};

// The functions below run on every thread of a team, and end with a barrier.

// Packs the rows that `fill` returns k-major into tiles, as `tile` reads them.
template <typename Fill>
void pack(Worker& worker, const Tiles& tiles, long depth, float* packed, Fill fill) {
  worker.split(tiles.count, [&](long t) {
    const long from = tiles.row(t), size = tiles.size(t);
    float* to = packed + from * depth;
    for (long r = 0; r < size; ++r) {
      const float* line = fill(from + r);
      for (long k = 0; k < depth; ++k) to[k * size + r] = line[k];
    }
  });
  worker.meet();
}

// y (rows, width) = packed x (rows, depth) times the panels (ceil(width / 16), depth, 8). A word of
// a panel has the bf16 of column c in its low half and that of column c + 8 in its high half.
void linear(Worker& worker, const Tiles& tiles, const float* packed, long depth,
            const uint32_t* panels, long width, float* y) {
  const long count = (width + kPanel - 1) / kPanel, share = 4;
  const long shares = (count + share - 1) / share;
  // Small shares that threads take one by one: a core with other work then delays nobody.
  worker.share(tiles.blocks * shares, 2, [&](long unit) {
    const long block = unit / shares, p = unit % shares * share;
    for (long t = tiles.first(block); t < tiles.first(block + 1); ++t) {
      const long from = tiles.row(t);
      strip_of(tiles.size(t), packed + from * depth, panels + p * depth * 8, depth,
               y + from * width + p * kPanel, width, width - p * kPanel,
               smaller(share, count - p));
    }
  });
  worker.meet();
}

}  // namespace
