// The structures that Python passes: the model, the adapters and one batch. Their fields must be
// the same as in viz.engine.embedded.native.model.
#pragma once

#include "vectors.h"

extern "C" {

struct Layer {
  const float *norm, *mlp_norm;
  const uint32_t *qkv, *o, *gate_up, *down;
};

struct Model {
  long layers, hidden, intermediate, heads, kv_heads, dim, vocabulary, capacity, slots;
  float epsilon;
  const Layer* layer;
  const float* norm;
  const uint32_t* head;
  const float *cosines, *sines;  // (capacity, dim / 2)
  float *keys, *values;          // (layers, slots, kv_heads, capacity, dim)
};

// An adapter's tensors. down, by group (qkv, o, gate_up, down), is (layers, members * rank, in).
// up, by linear layer in the order of the groups, is (layers, rank, out). The product of down and
// up must be multiplied by factor, a power of two. rank is a multiple of 4.
struct Adapter {
  long rank;
  const Half* down[4];
  const Half* up[7];
  float factor[7];
};

struct Batch {
  long rows, wanted;
  const int64_t *slots, *positions;
  const int64_t* last;             // the rows whose logits are wanted
  const Adapter* const* adapters;  // one a row, null for none
  float* x;                        // (rows, hidden): embedded tokens in, overwritten
  float* logits;                   // (wanted, vocabulary)
  float* room;                     // viz_room floats
};

}  // extern "C"
