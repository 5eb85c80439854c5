// What this processor can do at best: multiply-adds from registers, and reads from memory.
// Built and called by machine.py, so that every table stands beside the roof of its own run.

namespace {
#ifdef __AVX512F__
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
typedef float Vec __attribute__((vector_size(kBytes)));
}  // namespace

extern "C" {

int roof_lanes() { return kBytes / 4; }

// threads * rounds * 12 * lanes multiply-adds.
void roof_multiply(long rounds, int threads, float* sink) {
#pragma omp parallel num_threads(threads)
  {
    Vec sums[12];
    for (int i = 0; i < 12; ++i) sums[i] = Vec{} + static_cast<float>(i);
    Vec factor = Vec{} + sink[0], addend = Vec{} + sink[1];
    for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
      for (int i = 0; i < 12; ++i) sums[i] = sums[i] * factor + addend;
    }
    Vec total{};
    for (int i = 0; i < 12; ++i) total += sums[i];
#pragma omp critical
    sink[2] += total[0];
  }
}

// Reads count floats once; count is a multiple of 64 * threads.
void roof_read(const float* data, long count, int threads, float* sink) {
#pragma omp parallel num_threads(threads)
  {
    Vec sums[4] = {};
    const Vec* from = reinterpret_cast<const Vec*>(data);
#pragma omp for schedule(static)
    for (long i = 0; i < count / (kBytes / 4) / 4; ++i) {
#pragma GCC unroll 4
      for (int part = 0; part < 4; ++part) sums[part] += from[i * 4 + part];
    }
    Vec total = sums[0] + sums[1] + sums[2] + sums[3];
#pragma omp critical
    sink[2] += total[0];
  }
}

}  // extern "C"
