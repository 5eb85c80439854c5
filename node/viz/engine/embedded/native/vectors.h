// Vectors of eight floats, in the vector types of GCC and Clang: for any CPU of the compiler.
#pragma once

#include <cstdint>
#ifdef __F16C__
#include <immintrin.h>
// GCC before 12 has no _Float16 here, and later versions convert its values one by one.
struct Half {
  uint16_t bits;
  explicit operator float() const { return _cvtsh_ss(bits); }
};
#elif defined(__aarch64__)
typedef __fp16 Half;
#else
typedef _Float16 Half;
#endif

namespace {

typedef float Vec __attribute__((vector_size(32)));
typedef float Loose __attribute__((vector_size(32), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(32)));
typedef uint32_t LooseBits __attribute__((vector_size(32), aligned(4)));

inline Vec load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<Loose*>(to) = value; }
inline long smaller(long a, long b) { return a < b ? a : b; }

#ifdef __F16C__
inline Vec widen(const Half* from) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
#else
typedef Half LooseHalves __attribute__((vector_size(16), aligned(2)));
inline Vec widen(const Half* from) {
  return __builtin_convertvector(*reinterpret_cast<const LooseHalves*>(from), Vec);
}
#endif

// Selects eight of the sixteen values of a and b. GCC has clang's builtin only since version 12.
template <unsigned... From>
inline Vec pick(Vec a, Vec b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, From...);
#else
  return __builtin_shuffle(a, b, Bits{From...});
#endif
}

inline float sum(Vec value) {
  value += pick<4, 5, 6, 7, 0, 1, 2, 3>(value, value);
  value += pick<2, 3, 0, 1, 6, 7, 4, 5>(value, value);
  return value[0] + value[1];
}

// The sums of four vectors, each still in two parts: lanes 0 to 3 hold one part of each sum, lanes
// 4 to 7 the other.
inline Vec sums_of_four(const Vec* from) {
  Vec pairs[2];
#pragma GCC unroll 2
  for (int n = 0; n < 2; ++n) {
    const Vec a = from[2 * n], b = from[2 * n + 1];
    pairs[n] = pick<0, 8, 2, 10, 4, 12, 6, 14>(a, b) + pick<1, 9, 3, 11, 5, 13, 7, 15>(a, b);
  }
  return pick<0, 1, 8, 9, 4, 5, 12, 13>(pairs[0], pairs[1]) +
         pick<2, 3, 10, 11, 6, 7, 14, 15>(pairs[0], pairs[1]);
}

// Adds the two parts in such vectors: returns the four sums of a, then the four of b.
inline Vec folded(Vec a, Vec b) {
  return pick<0, 1, 2, 3, 8, 9, 10, 11>(a, b) +
         pick<4, 5, 6, 7, 12, 13, 14, 15>(a, b);
}

// e^x by range reduction and a polynomial (coefficients of Cephes), within 2 ulp. x is limited to
// -87 to 88.
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

// Applies RoPE to one head: cosines and sines are those of its position, dim / 2 angles.
inline void rotate(const float* from, const float* cosines, const float* sines, long dim,
                   float* to) {
  const long half = dim / 2;
  for (long i = 0; i < half; i += 8) {
    const Vec a = load(from + i), b = load(from + i + half);
    const Vec cosine = load(cosines + i), sine = load(sines + i);
    store(to + i, a * cosine - b * sine);
    store(to + i + half, b * cosine + a * sine);
  }
}

}  // namespace
