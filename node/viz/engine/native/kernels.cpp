// The engine's decoding products for processors where libraries are slow at few rows.
//
// y = x W^T with W the dequantised bf16 weights, kept as bf16 in panels of 16 output columns and
// widened in registers: half the memory traffic of float32 and the same values. Each output is one
// sum over k in order, so a row's result is bit for bit independent of the rows beside it.
// Around them, what else a decoding step does: norms, rotary positions, attention over the slot
// cache, SwiGLU. Written with GCC/Clang vector types: any CPU that the compiler knows.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int kPanel = 16;  // output columns of a weight panel
typedef float Vec __attribute__((vector_size(32)));
typedef float Loose __attribute__((vector_size(32), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint32_t LooseBits __attribute__((vector_size(32), aligned(4)));

inline Vec load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Loose*>(to) = value; }

inline float sum(Vec value) {
  value += __builtin_shufflevector(value, value, 4, 5, 6, 7, 0, 1, 2, 3);
  value += __builtin_shufflevector(value, value, 2, 3, 0, 1, 6, 7, 4, 5);
  return value[0] + value[1];
}

inline float dot(const float* a, const float* b, long size) {
  Vec first{}, second{};
  long i = 0;
  for (; i + 16 <= size; i += 16) {
    first += load(a + i) * load(b + i);
    second += load(a + i + 8) * load(b + i + 8);
  }
  float total = sum(first + second);
  for (; i < size; ++i) total += a[i] * b[i];
  return total;
}

// e^x by range reduction and a polynomial (Cephes' coefficients), within 2 ulp; x <= 88.
inline Vec exponential(Vec x) {
  typedef int32_t Ints __attribute__((vector_size(32)));
  x = x < -87.0f ? Vec{} - 87.0f : x;
  x = x > 88.0f ? Vec{} + 88.0f : x;
  const Vec shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const Vec whole = shifted - 12582912.0f;
  const Vec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec value = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  value = value * rest + 8.3334519073e-3f;
  value = value * rest + 4.1665795894e-2f;
  value = value * rest + 1.6666665459e-1f;
  value = value * rest + 5.0000001201e-1f;
  value = value * rest * rest + rest + 1.0f;
  return value * (Vec)((__builtin_convertvector(whole, Ints) + 127) << 23);
}

// Rotates one head by its position: cosines and sines of dim / 2 angles.
inline void rotate(const float* from, const float* cosines, const float* sines, long dim,
                   float* to) {
  const long half = dim / 2;
  for (long i = 0; i < half; ++i) {
    to[i] = from[i] * cosines[i] - from[i + half] * sines[i];
    to[i + half] = from[i + half] * cosines[i] + from[i] * sines[i];
  }
}

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
    // Small shares, taken as they come: a core that is also busy elsewhere delays nobody.
#pragma omp for schedule(dynamic, 4)
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
        const float inner = dot(a, in, depth);
        const float* line = up + r * widths[m];
        long n = 0;
        for (; n + 8 <= widths[m]; n += 8) store(out + n, load(out + n) + load(line + n) * inner);
        for (; n < widths[m]; ++n) out[n] += line[n] * inner;
      }
      out += widths[m];
    }
  }
}

// x += added (unless null); out = x / rms(x) * weight, row by row. width is a multiple of 8.
void viz_norm(float* x, const float* added, long rows, long width, const float* weight,
              float epsilon, float* out, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 4)
  for (long r = 0; r < rows; ++r) {
    float* line = x + r * width;
    Vec squares{};
    for (long i = 0; i < width; i += 8) {
      Vec value = load(line + i);
      if (added) store(line + i, value += load(added + r * width + i));
      squares += value * value;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / width + epsilon);
    for (long i = 0; i < width; i += 8)
      store(out + r * width + i, load(line + i) * scale * load(weight + i));
  }
}

// out = silu(both[:, :width]) * both[:, width:]; width is a multiple of 8.
void viz_swiglu(const float* both, long rows, long width, float* out, int threads) {
#pragma omp parallel for num_threads(threads)
  for (long r = 0; r < rows; ++r) {
    const float* gate = both + r * 2 * width;
    for (long i = 0; i < width; i += 8) {
      const Vec value = load(gate + i);
      store(out + r * width + i,
            value / (1.0f + exponential(-value)) * load(gate + width + i));
    }
  }
}

// One token a slot: rotates, caches and attends. mixed (slots, (heads + 2 kv_heads) * dim);
// keys and values are one layer's (slots, kv_heads, capacity, dim); a negative position skips its
// slot. cosines, sines (capacity, dim / 2). dim is a multiple of 16.
void viz_attend(const float* mixed, long slots, const int64_t* positions, const float* cosines,
                const float* sines, float* keys, float* values, long heads, long kv_heads,
                long dim, long capacity, float* out, int threads) {
  const long group = heads / kv_heads, line = (heads + 2 * kv_heads) * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (long unit = 0; unit < slots * kv_heads; ++unit) {
    const long slot = unit / kv_heads, head = unit % kv_heads, position = positions[slot];
    float* target = out + (slot * heads + head * group) * dim;
    if (position < 0) {
      for (long i = 0; i < group * dim; ++i) target[i] = 0;
      continue;
    }
    const float* from = mixed + slot * line;
    const float* cosine = cosines + position * (dim / 2);
    const float* sine = sines + position * (dim / 2);
    float* key = keys + unit * capacity * dim;
    float* value = values + unit * capacity * dim;
    rotate(from + (heads + head) * dim, cosine, sine, dim, key + position * dim);
    for (long i = 0; i < dim; ++i)
      value[position * dim + i] = from[(heads + kv_heads + head) * dim + i];
    const long seen = position + 1, padded = (seen + 7) / 8 * 8;
    thread_local std::vector<float> room;
    room.resize(dim + padded);
    float *query = room.data(), *scores = room.data() + dim;
    for (long g = 0; g < group; ++g) {
      rotate(from + (head * group + g) * dim, cosine, sine, dim, query);
      float largest = -INFINITY;
      for (long t = 0; t < seen; ++t) {
        scores[t] = dot(query, key + t * dim, dim) * scale;
        largest = scores[t] > largest ? scores[t] : largest;
      }
      for (long t = seen; t < padded; ++t) scores[t] = -INFINITY;
      Vec totals{};
      for (long t = 0; t < padded; t += 8) {
        const Vec weight = exponential(load(scores + t) - largest);
        store(scores + t, weight);
      }
      for (long t = seen; t < padded; ++t) scores[t] = 0;
      for (long t = 0; t < padded; t += 8) totals += load(scores + t);
      const float whole = 1.0f / sum(totals);
      for (long i = 0; i < dim; i += 16) {
        Vec left{}, right{};
        for (long t = 0; t < seen; ++t) {
          left += load(value + t * dim + i) * scores[t];
          right += load(value + t * dim + i + 8) * scores[t];
        }
        store(target + g * dim + i, left * whole);
        store(target + g * dim + i + 8, right * whole);
      }
    }
  }
}

}  // extern "C"
