// Attention over a slot's cached keys and values, for the query heads that share a key head.
#pragma once

#include <cmath>

#include "vectors.h"

namespace {

constexpr long kHeads = 3;  // query heads computed together: their twelve sums fit in registers

// The products of four keys with each of HEADS queries, in the two parts that `folded` adds. Never
// inlined: with the caller's variables there would be too few registers for the sums.
template <int HEADS>
__attribute__((noinline)) void products_of(const float* query, const float* const* key, long dim,
                                           Vec* halves) {
  Vec sums[HEADS][4] = {};
  for (long i = 0; i < dim; i += 8) {
    Vec asked[HEADS];
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; ++h) asked[h] = load(query + h * dim + i);
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n)
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; ++h) sums[h][n] += asked[h] * load(key[n] + i);
  }
#pragma GCC unroll 4
  for (int h = 0; h < HEADS; ++h) halves[h] = sums_of_four(sums[h]);
}

// The scores q . k of the keys t to t + 7, one vector a head. After the last key (seen - 1), that
// key is repeated, so that no memory behind it is read; attend_heads masks these scores.
template <int HEADS>
inline void scores_of(const float* query, const float* keys, long t, long seen, long dim,
                      Vec* scores) {
  const float* key[8];
  for (int n = 0; n < 8; ++n) key[n] = keys + smaller(t + n, seen - 1) * dim;
  Vec low[HEADS], high[HEADS];
  products_of<HEADS>(query, key, dim, low);
  products_of<HEADS>(query, key + 4, dim, high);
#pragma GCC unroll 4
  for (int h = 0; h < HEADS; ++h) scores[h] = folded(low[h], high[h]);
}

// to[h][i] = sum over t of weights[h][t] * values[t][i] / whole[h], for SIZE floats.
template <int HEADS, int SIZE>
inline void mix(const float* weights, long room, const float* values, long seen, long dim,
                const float* whole, float* to) {
  Vec sums[HEADS][SIZE / 8] = {};
  for (long t = 0; t < seen; ++t)
#pragma GCC unroll 8
    for (int n = 0; n < SIZE / 8; ++n) {
      const Vec value = load(values + t * dim + n * 8);
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; ++h) sums[h][n] += value * weights[h * room + t];
    }
#pragma GCC unroll 4
  for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 8
    for (int n = 0; n < SIZE / 8; ++n) store(to + h * dim + n * 8, sums[h][n] / whole[h]);
}

// softmax(q K^T * scale) V of HEADS neighbouring heads over `seen` keys. scores is a buffer of
// HEADS lines of `room` floats; room is at least seen rounded up to 8. dim is a multiple of 16.
template <int HEADS>
__attribute__((noinline)) void attend_heads(const float* query, const float* keys,
                                            const float* values, long seen, long dim, float scale,
                                            float* scores, long room, float* out) {
  const Vec index = {0, 1, 2, 3, 4, 5, 6, 7};
  Vec largest[HEADS];
  for (Vec& each : largest) each = Vec{} - INFINITY;
  for (long t = 0; t < seen; t += 8) {
    Vec found[HEADS];
    scores_of<HEADS>(query, keys, t, seen, dim, found);
#pragma GCC unroll 4
    for (int h = 0; h < HEADS; ++h) {
      const Vec scaled = found[h] * scale;
      const Vec kept = index < static_cast<float>(seen - t) ? scaled : Vec{} - INFINITY;
      largest[h] = kept > largest[h] ? kept : largest[h];
      store(scores + h * room + t, kept);
    }
  }
  float whole[HEADS];
  for (int h = 0; h < HEADS; ++h) {
    float most = largest[h][0];
    for (int n = 1; n < 8; ++n) most = largest[h][n] > most ? largest[h][n] : most;
    Vec totals{};
    for (float* line = scores + h * room; line < scores + h * room + seen; line += 8) {
      // The largest score is subtracted, so that no exponential overflows. The masked scores become
      // e^-87, which is nothing compared with the largest weight, 1.
      const Vec weights = exponential(load(line) - most);
      store(line, weights);
      totals += weights;
    }
    whole[h] = sum(totals);
  }
  constexpr int kWide = HEADS == 1 ? 64 : 32;
  long i = 0;
  for (; i + kWide <= dim; i += kWide)
    mix<HEADS, kWide>(scores, room, values + i, seen, dim, whole, out + i);
  for (; i < dim; i += 16) mix<HEADS, 16>(scores, room, values + i, seen, dim, whole, out + i);
}

// The same for any number of heads, in parts of at most kHeads heads, as equal as possible.
inline void attend_group(long heads, const float* query, const float* keys, const float* values,
                         long seen, long dim, float scale, float* scores, long room, float* out) {
  for (long parts = (heads + kHeads - 1) / kHeads; parts > 0; --parts) {
    const long taken = (heads + parts - 1) / parts;
    const auto attend = taken == 3 ? attend_heads<3> : taken == 2 ? attend_heads<2> : attend_heads<1>;
    attend(query, keys, values, seen, dim, scale, scores, room, out);
    heads -= taken, query += taken * dim, out += taken * dim;
  }
}

}  // namespace
