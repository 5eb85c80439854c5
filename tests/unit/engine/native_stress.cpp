// Drives the compiled pass as the engine does, while a sanitizer watches (test_native_sanitized.py).
// Buffers are as large as the pass may use, to the byte. What the numbers should be is asked in
// test_native.py; here, that they are the same bits whatever the team, its callers and its luck.

#include "kernels.cpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
constexpr bool kForks = false;  // that sanitizer ends a child that starts threads
#else
constexpr bool kForks = true;
#endif

namespace {

constexpr long kLayers = 2, kSlots = 5, kCapacity = 67;

void expect(bool sound, const char* what) {
  if (sound) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::_Exit(1);
}

uint32_t random_bits() {
  thread_local uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

float random_float() { return (static_cast<float>(random_bits()) / (1 << 24) - 0.5f) / 2; }

struct Sizes {
  long hidden, intermediate, heads, kv_heads, dim, vocabulary;
};

struct Worn {
  std::deque<std::vector<Half>> numbers;
  Adapter adapter{};

  Worn(const Sizes& sizes, long rank, float scale) {
    const long query = sizes.heads * sizes.dim, keyed = sizes.kv_heads * sizes.dim;
    const long members[] = {3, 1, 2, 1};
    const long depths[] = {sizes.hidden, query, sizes.hidden, sizes.intermediate};
    const long widths[] = {query,       keyed, keyed, sizes.hidden, sizes.intermediate,
                           sizes.intermediate, sizes.hidden};
    adapter.rank = rank;
    for (int n = 0; n < 4; ++n) adapter.down[n] = some(kLayers * members[n] * rank * depths[n], 1);
    for (int n = 0; n < 7; ++n) adapter.up[n] = some(kLayers * rank * widths[n], scale);
    for (float& factor : adapter.factor) factor = 0.5f;
  }

  const Half* some(long count, float scale) {
    numbers.emplace_back(count);
    for (Half& number : numbers.back()) {
      // Bits of float16 between 2**-10 and 1, of either sign; 0; or infinity.
      const uint32_t bits = scale == 0 ? 0 : scale > 1 ? 0x7c00 : random_bits() % 0x2800 + 0x1400;
      const uint16_t signed_bits = bits | (random_bits() & 0x8000);
      std::memcpy(&number, &signed_bits, sizeof number);
    }
    return numbers.back().data();
  }
};

struct Base {
  std::deque<std::vector<float>> floats;
  std::deque<std::vector<uint32_t>> words;
  std::vector<Layer> layers;
  std::deque<Worn> adapters;
  Model model{};

  explicit Base(const Sizes& sizes) {
    const long query = sizes.heads * sizes.dim, keyed = sizes.kv_heads * sizes.dim;
    for (long l = 0; l < kLayers; ++l)
      layers.push_back({some(sizes.hidden), some(sizes.hidden),
                        panels(query + 2 * keyed, sizes.hidden), panels(sizes.hidden, query),
                        panels(2 * sizes.intermediate, sizes.hidden),
                        panels(sizes.hidden, sizes.intermediate)});
    model = {kLayers, sizes.hidden, sizes.intermediate, sizes.heads, sizes.kv_heads, sizes.dim,
             sizes.vocabulary, kCapacity, kSlots, 1e-5f, layers.data(), some(sizes.hidden),
             panels(sizes.vocabulary, sizes.hidden), some(kCapacity * sizes.dim / 2),
             some(kCapacity * sizes.dim / 2), nullptr, nullptr};
    for (long rank : {8, 16, 32, 64}) adapters.emplace_back(sizes, rank, 1.0f);
    adapters.emplace_back(sizes, 8, 0.0f);
    adapters.emplace_back(sizes, 8, INFINITY);
  }

  float* some(long count) {
    floats.emplace_back(count);
    for (float& number : floats.back()) number = random_float();
    return floats.back().data();
  }

  const uint32_t* panels(long width, long depth) {
    words.emplace_back((width + kPanel - 1) / kPanel * depth * 8);
    for (uint32_t& word : words.back()) {
      const float pair[] = {random_float(), random_float()};
      uint32_t bits[2];
      std::memcpy(bits, pair, sizeof bits);
      word = bits[0] >> 16 | (bits[1] & 0xffff0000u);
    }
    return words.back().data();
  }
};

struct Row {
  int64_t slot, position;
  int worn;  // place among the adapters; -1 for none
};

// A cache of one's own over a shared base.
struct Stream {
  Model model;
  std::vector<float> keys, values;

  explicit Stream(const Base& base) : model(base.model) {
    const long size = kLayers * kSlots * model.kv_heads * kCapacity * model.dim;
    keys.resize(size), values.resize(size);
    model.keys = keys.data(), model.values = values.data();
  }

  std::vector<float> run(const Base& base, const std::vector<Row>& rows,
                         const std::vector<int64_t>& last, int threads) {
    std::vector<int64_t> slots, positions;
    std::vector<const Adapter*> worn;
    std::vector<float> x, logits(last.size() * model.vocabulary);
    for (const Row& row : rows) {
      slots.push_back(row.slot), positions.push_back(row.position);
      worn.push_back(row.worn < 0 ? nullptr : &base.adapters[row.worn].adapter);
      for (long i = 0; i < model.hidden; ++i)
        x.push_back(std::sin(static_cast<float>(1 + row.position + 7 * row.slot + i * i)));
    }
    x.shrink_to_fit();
    const long count = rows.size(), wanted = last.size();
    std::vector<float> room(viz_room(&model, count, threads));
    const Batch batch{count, wanted, slots.data(), positions.data(), last.data(), worn.data(),
                      x.data(), logits.data(), room.data()};
    if (const char* wrong = viz_run(&model, &batch, threads)) expect(false, wrong);
    return logits;
  }
};

// A long prompt beside short ones, then decoding to the slots' last position, adapters of all kinds.
std::vector<float> serve(const Base& base, int threads) {
  Stream stream(base);
  std::vector<float> found;
  const auto run = [&](const std::vector<Row>& rows, const std::vector<int64_t>& last) {
    const auto logits = stream.run(base, rows, last, threads);
    found.insert(found.end(), logits.begin(), logits.end());
  };
  std::vector<Row> rows;
  for (int64_t at = 0; at < 53; ++at) rows.push_back({0, at, 3});
  for (int64_t at = 0; at < kCapacity - 1; ++at) rows.push_back({4, at, -1});
  for (int64_t at = 0; at < 6; ++at) rows.push_back({2, at, 1}), rows.push_back({1, at, 2});
  run(rows, {52, static_cast<int64_t>(rows.size()) - 1});
  run({{3, 0, 0}}, {});
  run({{0, 53, 3}, {4, kCapacity - 1, -1}, {2, 6, 1}, {1, 6, 2}, {3, 1, 0}}, {0, 1, 3, 4});
  run({{3, 2, 4}, {3, 3, 4}, {3, 4, 4}}, {2});
  return found;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

// Neither a neighbour of a row that overflows nor its slot's next sequence gets other bits for it.
void overflow(const Base& base, int threads) {
  std::vector<float> found[2];
  for (int wild : {0, 1}) {
    Stream stream(base);
    found[wild] = stream.run(base, {{0, 0, 0}, {1, 0, wild ? 5 : 0}, {2, 0, 0}}, {0, 1, 2}, threads);
    auto& row = found[wild];
    row.erase(row.begin() + base.model.vocabulary, row.begin() + 2 * base.model.vocabulary);
    stream.run(base, {{1, 1, wild ? 5 : 0}}, {}, threads);
    const auto next = stream.run(base, {{1, 0, 0}, {2, 1, 0}}, {0, 1}, threads);
    row.insert(row.end(), next.begin(), next.end());
    for (float number : row) expect(std::isfinite(number), "a sound row is not finite");
  }
  expect(same(found[0], found[1]), "an overflowing row changes another");
}

void refusals(const Base& base) {
  Stream stream(base);
  const auto refused = [&](int64_t slot, int64_t position, std::vector<int64_t> last, long rank) {
    Adapter adapter = base.adapters[0].adapter;
    adapter.rank = rank;
    const Adapter* worn = &adapter;
    const Batch batch{1,     static_cast<long>(last.size()), &slot, &position, last.data(), &worn,
                      nullptr, nullptr, nullptr};
    return viz_run(&stream.model, &batch, 2) != nullptr;
  };
  expect(refused(kSlots, 0, {}, 8) && refused(-1, 0, {}, 8), "a slot outside the cache is used");
  expect(refused(0, kCapacity, {}, 8) && refused(0, -1, {}, 8), "a position past the end is used");
  expect(refused(0, 0, {1}, 8) && refused(0, 0, {-1}, 8) && refused(0, 0, {0, 0}, 8),
         "rows that are not there, or twice there, are given logits");
  expect(refused(0, 0, {}, 68) && refused(0, 0, {}, 6), "a rank without room is used");
}

// Threads that cannot be started: their stacks are larger than any memory.
void unmanned(const Base& base, const std::vector<float>& alone) {
  pthread_attr_t usual, huge;
  pthread_getattr_default_np(&usual);
  pthread_getattr_default_np(&huge);
  pthread_attr_setstacksize(&huge, 1ul << 47);
  expect(!pthread_setattr_default_np(&huge), "no other default stack");
  expect(same(serve(base, 5), alone), "a team of one gives other numbers");
  pthread_setattr_default_np(&usual);
  expect(same(serve(base, 5), alone), "a team grown late gives other numbers");
  expect(team_of(5).threads() == 5, "a team does not grow once it can");
}

void forked(const Base& base, const std::vector<float>& alone) {
  expect(same(serve(base, 3), alone), "before forking");
  const pid_t child = fork();
  if (!child) {
    alarm(20);
    const bool sound = same(serve(base, 3), alone);
    std::exit(!sound);  // ends the team too, whose threads are not in this process
  }
  int status = 1;
  expect(waitpid(child, &status, 0) == child && !status, "a forked child hangs, or is wrong");
  expect(same(serve(base, 3), alone), "after forking");
}

void silu() {
  float both[16];
  for (float x = -200; x < 200; x += 0.37f) {
    for (int i = 0; i < 8; ++i) both[i] = x, both[8 + i] = 1;
    float out[8];
    swiglu_line(both, 8, out);
    const double exact = x / (1 + std::exp(-static_cast<double>(x)));
    expect(std::fabs(out[7] - exact) <= 1e-6 + 1e-5 * std::fabs(exact), "silu");
  }
}

}  // namespace

int main(int, char** arguments) {
  const int rounds = std::atoi(arguments[1]);
  const Sizes shapes[] = {
      {24, 40, 4, 2, 16, 51}, {8, 8, 1, 1, 16, 1}, {40, 16, 9, 3, 80, 17}, {72, 136, 7, 1, 48, 130}};
  silu();
  for (const Sizes& sizes : shapes) {
    const Base base(sizes);
    const auto alone = serve(base, 1);
    for (int threads = 1; threads < 5; ++threads) {
      for (int n = 0; n < (&sizes == shapes ? rounds : 1); ++n)
        expect(same(serve(base, threads), alone), "a larger team gives other numbers");
      overflow(base, threads);
    }
    refusals(base);
  }
  const Base base(shapes[0]);
  const auto alone = serve(base, 1);
  std::vector<std::thread> callers;
  for (int n = 0; n < 3; ++n)
    callers.emplace_back([&] {
      for (int round = 0; round < rounds; ++round)
        expect(same(serve(base, 2 + round % 2), alone), "callers at once get other numbers");
    });
  for (auto& caller : callers) caller.join();
  unmanned(base, alone);
  if (kForks) forked(base, alone);
}
