// What Python hands over: the model, the adapters and one batch (viz.engine.native.model).
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

// An adapter's tensors by group (qkv, o, gate_up, down): down (layers, members * rank, in) and,
// by linear in the groups' order, up (layers, rank, out); their product is to be multiplied by
// factor, a power of two. rank is a multiple of 4.
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
