// LoRA for a mixed batch: every row adds the product of its own adapter. Adapters are stored as
// float16 times a power of two, which halves the memory traffic of float32. They are read in place:
// never copied or gathered.
#pragma once

#include <vector>

#include "batch.h"
#include "team.h"

namespace {

constexpr long kColumns = 64;   // output columns of one unit of work of LoRA's second product
constexpr long kInner = 3 * 64;  // inner values of a row: members of a group times largest rank

// Up to kSpan neighbouring rows with the same adapter. Its float16 numbers are widened to float32
// once for all of them.
struct Span {
  long row;
  int rows;
};
constexpr int kSpan = 4;

std::vector<Span> spans_of(const Batch& batch) {
  std::vector<Span> spans;
  for (long row = 0; row < batch.rows; ++row) {
    const Adapter* adapter = batch.adapters[row];
    if (!adapter) continue;
    if (!spans.empty() && spans.back().row + spans.back().rows == row &&
        spans.back().rows < kSpan && batch.adapters[row - 1] == adapter)
      ++spans.back().rows;
    else
      spans.push_back({row, 1});
  }
  return spans;
}

// to[n * to_stride + r] = a[r] . x[n] * factor for ROWS rows of x and COUNT rows of a. Each sum
// uses two accumulators, so that an addition does not wait for the one before.
template <int ROWS, int COUNT>
inline void dots(const Half* a, const float* x, long size, float factor, float* to,
                 long to_stride) {
  Vec first[COUNT][ROWS], second[COUNT][ROWS];
#pragma GCC unroll 4
  for (int r = 0; r < COUNT; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < ROWS; ++n) first[r][n] = second[r][n] = Vec{};
  long i = 0;
  for (; i + 16 <= size; i += 16) {
#pragma GCC unroll 4
    for (int r = 0; r < COUNT; ++r) {
      const Vec left = widen(a + r * size + i), right = widen(a + r * size + i + 8);
#pragma GCC unroll 4
      for (int n = 0; n < ROWS; ++n) {
        first[r][n] += left * load(x + n * size + i);
        second[r][n] += right * load(x + n * size + i + 8);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < COUNT; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < ROWS; ++n) {
      float total = sum(first[r][n] + second[r][n]);
      for (long k = i; k < size; ++k) total += static_cast<float>(a[r * size + k]) * x[n * size + k];
      to[n * to_stride + r] = total * factor;
    }
}

// y[n] += sum over r of up[r] * factors[n][r], for the columns from begin to end.
template <int ROWS>
inline void spread(const Half* up, long width, long rank, const float* factors, long begin,
                   long end, float* y, long y_stride) {
  for (; begin + 16 <= end; begin += 16) {
    Vec left[ROWS], right[ROWS];
#pragma GCC unroll 4
    for (int n = 0; n < ROWS; ++n) {
      left[n] = load(y + n * y_stride + begin);
      right[n] = load(y + n * y_stride + begin + 8);
    }
    for (long r = 0; r < rank; ++r) {
      const Vec low = widen(up + r * width + begin), high = widen(up + r * width + begin + 8);
#pragma GCC unroll 4
      for (int n = 0; n < ROWS; ++n) {
        left[n] += low * factors[n * kInner + r];
        right[n] += high * factors[n * kInner + r];
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < ROWS; ++n) {
      store(y + n * y_stride + begin, left[n]);
      store(y + n * y_stride + begin + 8, right[n]);
    }
  }
  for (; begin < end; ++begin)
    for (int n = 0; n < ROWS; ++n)
      for (long r = 0; r < rank; ++r)
        y[n * y_stride + begin] += static_cast<float>(up[r * width + begin]) * factors[n * kInner + r];
}

// The linear layers of a group (layers with the same input): the group's number, the number of its
// first linear layer, how many there are, and their widths.
struct Group {
  int number, linear, members;
  long depth, widths[3];
};

// Writes each adapter's first product, of the rows of x with this adapter, to inner. There is no
// barrier here, to save one: call this before `linear` of the same group, which does not read inner
// and ends with a barrier.
void lora_down(Worker& worker, const Batch& batch, const std::vector<Span>& spans, long layer,
               const Group& group, const float* x, float* inner) {
  const long count = spans.size(), depth = group.depth;
  worker.share(count * group.members, 1, [&](long unit) {
    const Span span = spans[unit / group.members];
    const long member = unit % group.members, row = span.row;
    const Adapter& adapter = *batch.adapters[row];
    const Half* down = adapter.down[group.number] + (layer * group.members + member) * adapter.rank * depth;
    const float factor = adapter.factor[group.linear + member];
    float* to = inner + row * kInner + member * adapter.rank;
    for (long r = 0; r < adapter.rank; r += 4) {
      const Half* a = down + r * depth;
      const float* from = x + row * depth;
      if (span.rows == 1) {
        dots<1, 4>(a, from, depth, factor, to + r, kInner);
        continue;
      }
      for (long part = 0; part < 4; ++part, a += depth) {
        if (span.rows == 4) dots<4, 1>(a, from, depth, factor, to + r + part, kInner);
        if (span.rows == 3) dots<3, 1>(a, from, depth, factor, to + r + part, kInner);
        if (span.rows == 2) dots<2, 1>(a, from, depth, factor, to + r + part, kInner);
      }
    }
  });
}

// Adds each adapter's second product, of inner, to the rows of y with this adapter.
void lora_up(Worker& worker, const Batch& batch, const std::vector<Span>& spans, long layer,
             const Group& group, const float* inner, float* y, long width) {
  const long count = spans.size();
  if (!count) return;
  const long blocks = (width + kColumns - 1) / kColumns;
  worker.share(count * blocks, 8, [&](long unit) {
    const Span span = spans[unit / blocks];
    const Adapter& adapter = *batch.adapters[span.row];
    const long begin = unit % blocks * kColumns, end = smaller(width, begin + kColumns);
    long start = 0;
    for (int member = 0; member < group.members; start += group.widths[member++]) {
      const long own = group.widths[member];
      const long from = begin > start ? begin - start : 0, to = smaller(end - start, own);
      if (from >= to) continue;
      const Half* up = adapter.up[group.linear + member] + layer * adapter.rank * own;
      const float* factors = inner + span.row * kInner + member * adapter.rank;
      float* out = y + span.row * width + start;
      switch (span.rows) {
        case 4: spread<4>(up, own, adapter.rank, factors, from, to, out, width); break;
        case 3: spread<3>(up, own, adapter.rank, factors, from, to, out, width); break;
        case 2: spread<2>(up, own, adapter.rank, factors, from, to, out, width); break;
        default: spread<1>(up, own, adapter.rank, factors, from, to, out, width);
      }
    }
  });
  worker.meet();
}

}  // namespace
