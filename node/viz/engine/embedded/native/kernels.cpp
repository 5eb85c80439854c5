// The engine's own forward pass, because libraries are slow at matrix products with few rows.
//
// One call runs all layers over a batch of rows. A row is one token of a sequence, at a position of
// its cache slot; a chunk of a prompt is many rows of one slot. A row's result is bit for bit
// independent of the other rows. Threads are woken once a call, with barriers between the products.

#include <cmath>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "lora.h"
#include "products.h"
#include "team.h"

namespace {

inline long widest(const Model& model) {
  const long most = model.hidden > model.intermediate ? model.hidden : model.intermediate;
  return most > model.heads * model.dim ? most : model.heads * model.dim;
}

// RMSNorm of one row; width is a multiple of 8.
inline void norm_line(const float* x, const float* weight, long width, float epsilon, float* out) {
  Vec squares{};
  for (long i = 0; i < width; i += 8) squares += load(x + i) * load(x + i);
  const float scale = 1.0f / std::sqrt(sum(squares) / width + epsilon);
  for (long i = 0; i < width; i += 8) store(out + i, load(x + i) * scale * load(weight + i));
}

// silu(both[:width]) * both[width:]; width is a multiple of 8.
inline void swiglu_line(const float* both, long width, float* out) {
  for (long i = 0; i < width; i += 8) {
    const Vec value = load(both + i);
    store(out + i, value / (1.0f + exponential(-value)) * load(both + width + i));
  }
}

// The floats for one head's scores, and for one thread's: whole vectors, and the distance of a
// cache line to the next, so that threads do not write to the same cache line.
inline long scores_line(const Model& model) { return model.capacity + 24; }
inline long scores_room(const Model& model) { return kHeads * scores_line(model); }

// Returns what is wrong with a batch, or null. Checked before anything is written, because a wrong
// slot, position or rank would write outside the buffers.
const char* wrong_with(const Model& model, const Batch& batch) {
  for (long row = 0; row < batch.rows; ++row) {
    if (batch.slots[row] < 0 || batch.slots[row] >= model.slots) return "no such slot";
    if (batch.positions[row] < 0 || batch.positions[row] >= model.capacity)
      return "no such position";
    const long rank = batch.adapters[row] ? batch.adapters[row]->rank : 4;
    if (rank < 4 || rank % 4 || rank > kInner / 3) return "no such rank";
  }
  long before = -1;
  for (long place = 0; place < batch.wanted; before = batch.last[place++])
    if (batch.last[place] <= before || batch.last[place] >= batch.rows)
      return "the rows whose logits are wanted are not there, or not in order";
  return nullptr;
}

// Calls `call` and catches what it throws: the caller is not C++.
template <typename Call>
const char* answer_of(Call call) noexcept {
  try {
    return call();
  } catch (const std::exception&) {
    return "out of memory";
  }
}

// Applies RoPE to queries in place and to keys, and writes keys and values to the cache.
void keep(Worker& worker, const Model& model, const Batch& batch, long layer, float* mixed) {
  const long dim = model.dim, line = (model.heads + 2 * model.kv_heads) * dim;
  worker.split(batch.rows, [&](long row) {
    const long position = batch.positions[row];
    const float* cosines = model.cosines + position * (dim / 2);
    const float* sines = model.sines + position * (dim / 2);
    float* from = mixed + row * line;
    for (long h = 0; h < model.heads; ++h)
      rotate(from + h * dim, cosines, sines, dim, from + h * dim);
    const long place = (layer * model.slots + batch.slots[row]) * model.kv_heads;
    for (long h = 0; h < model.kv_heads; ++h) {
      const long to = ((place + h) * model.capacity + position) * dim;
      rotate(from + (model.heads + h) * dim, cosines, sines, dim, model.keys + to);
      const float* value = from + (model.heads + model.kv_heads + h) * dim;
      for (long i = 0; i < dim; i += 8) store(model.values + to + i, load(value + i));
    }
  });
  worker.meet();
}

// Attention of all rows and heads. All keys of this call were written by `keep` before.
void attend(Worker& worker, const Model& model, const Batch& batch, long layer, const float* mixed,
            float* scores, float* out) {
  const long dim = model.dim, group = model.heads / model.kv_heads;
  const long line = (model.heads + 2 * model.kv_heads) * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  worker.share(batch.rows * model.kv_heads, 1, [&](long unit) {
    // Units are ordered by head, then row: neighbouring rows of one slot then read the same keys.
    const long head = unit / batch.rows, row = unit % batch.rows;
    const long seen = batch.positions[row] + 1;
    const long place = (layer * model.slots + batch.slots[row]) * model.kv_heads + head;
    const float* keys = model.keys + place * model.capacity * dim;
    const float* values = model.values + place * model.capacity * dim;
    attend_group(group, mixed + row * line + head * group * dim, keys, values, seen, dim, scale,
                 scores, scores_line(model), out + (row * model.heads + head * group) * dim);
  });
  worker.meet();
}

void run(const Model& model, const Batch& batch, int threads) {
  const long rows = batch.rows, hidden = model.hidden, inter = model.intermediate;
  const long query = model.heads * model.dim, keyed = model.kv_heads * model.dim;
  const long wide = query + 2 * keyed;
  float* x = batch.x;
  float* normed = batch.room;               // (rows, hidden)
  float* added = normed + rows * hidden;    // (rows, hidden)
  float* mixed = added + rows * hidden;     // (rows, wide)
  float* attended = mixed + rows * wide;    // (rows, query)
  float* both = attended + rows * query;    // (rows, 2 * inter)
  float* gated = both + rows * 2 * inter;   // (rows, inter)
  float* packed = gated + rows * inter;     // (rows, widest)
  float* inner = packed + rows * widest(model);  // (rows, kInner)
  float* scores = inner + rows * kInner;         // (threads, scores_room)
  const std::vector<Span> spans = spans_of(batch);
  const Tiles tiles(rows), ends(batch.wanted);
  const Group to_qkv{0, 0, 3, hidden, {query, keyed, keyed}}, to_o{1, 3, 1, query, {hidden}};
  const Group to_gate_up{2, 4, 2, hidden, {inter, inter}}, to_down{3, 6, 1, inter, {hidden}};
  team_of(threads).run([&](Worker& worker) {
    // Returns the function that normalises a row while it is packed. With `adds` it first adds the
    // last block's output to the residual x: done here, this needs no barrier of its own.
    const auto norm_of = [&](const float* weight, bool adds) {
      return [=, &model](long row) -> const float* {
        float* line = x + row * hidden;
        if (adds)
          for (long i = 0; i < hidden; i += 8)
            store(line + i, load(line + i) + load(added + row * hidden + i));
        norm_line(line, weight, hidden, model.epsilon, normed + row * hidden);
        return normed + row * hidden;
      };
    };
    for (long l = 0; l < model.layers; ++l) {
      const Layer& layer = model.layer[l];
      pack(worker, tiles, hidden, packed, norm_of(layer.norm, l > 0));
      lora_down(worker, batch, spans, l, to_qkv, normed, inner);
      linear(worker, tiles, packed, hidden, layer.qkv, wide, mixed);
      lora_up(worker, batch, spans, l, to_qkv, inner, mixed, wide);
      keep(worker, model, batch, l, mixed);
      attend(worker, model, batch, l, mixed, scores + worker.place * scores_room(model), attended);
      pack(worker, tiles, query, packed, [&](long row) { return attended + row * query; });
      lora_down(worker, batch, spans, l, to_o, attended, inner);
      linear(worker, tiles, packed, query, layer.o, hidden, added);
      lora_up(worker, batch, spans, l, to_o, inner, added, hidden);
      pack(worker, tiles, hidden, packed, norm_of(layer.mlp_norm, true));
      lora_down(worker, batch, spans, l, to_gate_up, normed, inner);
      linear(worker, tiles, packed, hidden, layer.gate_up, 2 * inter, both);
      lora_up(worker, batch, spans, l, to_gate_up, inner, both, 2 * inter);
      pack(worker, tiles, inter, packed, [&](long row) -> const float* {
        swiglu_line(both + row * 2 * inter, inter, gated + row * inter);
        return gated + row * inter;
      });
      lora_down(worker, batch, spans, l, to_down, gated, inner);
      linear(worker, tiles, packed, inter, layer.down, hidden, added);
      lora_up(worker, batch, spans, l, to_down, inner, added, hidden);
    }
    const auto final_norm = norm_of(model.norm, true);
    pack(worker, ends, hidden, packed, [&](long place) { return final_norm(batch.last[place]); });
    linear(worker, ends, packed, hidden, model.head, model.vocabulary, batch.logits);
  });
}

}  // namespace

extern "C" {

// viz_linear and viz_run return an error message, or null.

// y (rows, width) = x (rows, depth) times panels, as in `linear`; room is rows * depth floats.
const char* viz_linear(const float* x, long rows, long depth, const uint32_t* panels, long width,
                       float* y, float* room, int threads) {
  return answer_of([&]() -> const char* {
    const Tiles tiles(rows);
    team_of(threads).run([&](Worker& worker) {
      pack(worker, tiles, depth, room, [&](long row) { return x + row * depth; });
      linear(worker, tiles, room, depth, panels, width, y);
    });
    return nullptr;
  });
}

// Returns the size of Batch.room for `rows` rows, in floats.
long viz_room(const Model* model, long rows, int threads) {
  const long wide = (model->heads + 2 * model->kv_heads) * model->dim;
  const long query = model->heads * model->dim;
  return rows * (2 * model->hidden + wide + query + 3 * model->intermediate + widest(*model) +
                 kInner) +
         threads * scores_room(*model);
}

const char* viz_run(const Model* model, const Batch* batch, int threads) {
  return answer_of([=] {
    const char* wrong = wrong_with(*model, *batch);
    if (!wrong) run(*model, *batch, threads);
    return wrong;
  });
}

}  // extern "C"
