// Attention of one query head over its slot's cached keys and values.
#pragma once

#include <cmath>

#include "vectors.h"

namespace {

// The eight scores q . k of keys t to t + 7; those past the last are the last again.
inline Vec scores_of(const float* query, const float* keys, long t, long seen, long dim) {
  const float* key[8];
  for (int n = 0; n < 8; ++n) key[n] = keys + smaller(t + n, seen - 1) * dim;
  Vec sums[8] = {};
  for (long i = 0; i < dim; i += 8) {
    const Vec part = load(query + i);
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) sums[n] += part * load(key[n] + i);
  }
  return sums_of(sums);
}

// to[i] = sum over t of weights[t] * values[t][i], SIZE floats at a time.
template <int SIZE>
inline void mix(const float* weights, const float* values, long seen, long dim, float whole,
                float* to) {
  Vec sums[SIZE / 8] = {};
  for (long t = 0; t < seen; ++t)
#pragma GCC unroll 8
    for (int n = 0; n < SIZE / 8; ++n) sums[n] += load(values + t * dim + n * 8) * weights[t];
#pragma GCC unroll 8
  for (int n = 0; n < SIZE / 8; ++n) store(to + n * 8, sums[n] / whole);
}

// softmax(q K^T) V over `seen` keys; room holds seen floats, rounded up to 8; dim a multiple of 16.
__attribute__((noinline)) void attend_head(const float* query, const float* keys,
                                           const float* values, long seen, long dim, float scale,
                                           float* room, float* out) {
  const Vec lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  Vec largest = Vec{} - INFINITY;
  for (long t = 0; t < seen; t += 8) {
    Vec scores = scores_of(query, keys, t, seen, dim) * scale;
    scores = lanes < static_cast<float>(seen - t) ? scores : Vec{} - INFINITY;
    largest = scores > largest ? scores : largest;
    store(room + t, scores);
  }
  float most = largest[0];
  for (int n = 1; n < 8; ++n) most = largest[n] > most ? largest[n] : most;
  Vec totals{};
  for (long t = 0; t < seen; t += 8) {
    // What is past the last is e^-87 here: nothing beside the largest, which is 1.
    const Vec weights = exponential(load(room + t) - most);
    store(room + t, weights);
    totals += weights;
  }
  const float whole = sum(totals);
  long i = 0;
  for (; i + 64 <= dim; i += 64) mix<64>(room, values + i, seen, dim, whole, out + i);
  for (; i < dim; i += 16) mix<16>(room, values + i, seen, dim, whole, out + i);
}

}  // namespace
