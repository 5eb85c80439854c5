// The engine's decoding products for processors where libraries are slow at few rows.
//
// y = x W^T with W the dequantised bf16 weights, kept as bf16 in panels of 16 output columns and
// widened in registers: half the memory traffic of float32 and the same values. Each output is one
// sum over k in order, so a row's result is bit for bit independent of the rows beside it.
// Written with GCC/Clang vector types: any CPU that the compiler knows.

#include <cstdint>

namespace {

constexpr int kPanel = 16;  // output columns of a weight panel
typedef float Vec __attribute__((vector_size(32)));
typedef float Loose __attribute__((vector_size(32), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint32_t LooseBits __attribute__((vector_size(32), aligned(4)));

inline Vec load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Loose*>(to) = value; }

// ROWS rows of x (packed k-major: x[k * ROWS + r]) against one panel, whole depth;
// ROWS * 2 accumulators stay in registers.
template <int ROWS>
void tile(const float* x, const uint32_t* panel, long depth, float* y, long y_stride,
          int columns) {
  Vec low[ROWS], high[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) low[r] = high[r] = Vec{};
  for (long k = 0; k < depth; ++k) {
    const Bits pair = *reinterpret_cast<const LooseBits*>(panel + k * 8);
    const Vec left = (Vec)(pair << 16), right = (Vec)(pair & 0xffff0000u);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const float value = x[k * ROWS + r];
      low[r] += left * value;
      high[r] += right * value;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
    if (columns == kPanel) {
      store(y + r * y_stride, low[r]);
      store(y + r * y_stride + 8, high[r]);
    } else {
      for (int c = 0; c < columns; ++c) y[r * y_stride + c] = c < 8 ? low[r][c] : high[r][c - 8];
    }
  }
}

void tile_of(long rows, const float* x, const uint32_t* panel, long depth, float* y,
             long y_stride, int columns) {
  switch (rows) {
    case 6: return tile<6>(x, panel, depth, y, y_stride, columns);
    case 5: return tile<5>(x, panel, depth, y, y_stride, columns);
    case 4: return tile<4>(x, panel, depth, y, y_stride, columns);
    case 3: return tile<3>(x, panel, depth, y, y_stride, columns);
    case 2: return tile<2>(x, panel, depth, y, y_stride, columns);
    default: return tile<1>(x, panel, depth, y, y_stride, columns);
  }
}

// The first row of tile t: rows divided as evenly as tiles of at most six allow.
inline long first_row(long rows, long tiles, long t) { return rows * t / tiles; }

}  // namespace

extern "C" {

// x (rows, depth) contiguous; panels (ceil(width / 16), depth, 8), each word the
// bf16 of column c below that of column c + 8; y (rows, width);
// scratch has room for rows * depth.
void viz_linear(const float* x, long rows, long depth, const uint32_t* panels, long width, float* y,
                float* scratch, int threads) {
  const long count = (width + kPanel - 1) / kPanel, tiles = (rows + 5) / 6;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (long t = 0; t < tiles; ++t) {
      const long from = first_row(rows, tiles, t), size = first_row(rows, tiles, t + 1) - from;
      for (long r = 0; r < size; ++r)
        for (long k = 0; k < depth; ++k)
          scratch[from * depth + k * size + r] = x[(from + r) * depth + k];
    }
#pragma omp for schedule(static)
    for (long p = 0; p < count; ++p) {
      const long left = width - p * kPanel;
      const int columns = left < kPanel ? static_cast<int>(left) : kPanel;
      for (long t = 0; t < tiles; ++t) {
        const long from = first_row(rows, tiles, t);
        tile_of(first_row(rows, tiles, t + 1) - from, scratch + from * depth,
                panels + p * depth * 8, depth, y + from * width + p * kPanel, width, columns);
      }
    }
  }
}

// For each adapter i: y[rows[i]] += up_i(down_i(x[rows[i]])), read where the adapter lies.
// down[i] (members * rank, depth); ups[i * members + m] (rank, widths[m]).
void viz_lora(long count, const int64_t* rows, const int64_t* ranks, const float* const* down,
              const float* const* ups, long members, const int64_t* widths, const float* x,
              long depth, float* y, long width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (long i = 0; i < count; ++i) {
    const float* in = x + rows[i] * depth;
    float* out = y + rows[i] * width;
    const long rank = ranks[i];
    for (long m = 0; m < members; ++m) {
      const float* up = ups[i * members + m];
      for (long r = 0; r < rank; ++r) {
        const float* a = down[i] + (m * rank + r) * depth;
        Vec sums[4] = {};
        long k = 0;
        for (; k + 32 <= depth; k += 32)
          for (int part = 0; part < 4; ++part)
            sums[part] += load(a + k + part * 8) * load(in + k + part * 8);
        const Vec all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        float inner = 0;
        for (int lane = 0; lane < 8; ++lane) inner += all[lane];
        for (; k < depth; ++k) inner += a[k] * in[k];
        for (long n = 0; n < widths[m]; ++n) out[n] += up[r * widths[m] + n] * inner;
      }
      out += widths[m];
    }
  }
}

}  // extern "C"
