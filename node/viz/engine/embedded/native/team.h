// A team of threads that share the work of one call. OpenMP is not used, because torch uses the same
// runtime: it counts the threads of every team that torch ever started, and if that is more threads
// than processors, all threads sleep at barriers instead of spinning. A step has 400 barriers; with
// sleeping threads they take longer than the step's products.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr long kSpins = 2000;    // about 20 to 100 microseconds
constexpr unsigned kLoops = 64;  // counters used in turn; threads are never that many loops apart

class Team;

// One thread of a team during a call.
struct Worker {
  Team* team;
  int place, threads;
  unsigned loop;

  // Runs body(n) for 0 <= n < count. Threads take chunks of `chunk` one by one. No barrier.
  template <typename Body>
  void share(long count, long chunk, Body body);
  // The same, in as many chunks as there are threads.
  template <typename Body>
  void split(long count, Body body) {
    share(count, (count + threads - 1) / threads, body);
  }
  // Barrier: returns when every thread has called it. Several loops may run between two barriers.
  void meet();
};

class Team {
 public:
  explicit Team(int wanted) : wanted(wanted) { crew_.reserve(wanted); }

  ~Team() {
    publish(nullptr);
    for (auto& thread : crew_) thread.join();
  }

  // Runs the job on every thread, including this one, and returns when all are done.
  void run(const std::function<void(Worker&)>& job) {
    hire();
    for (auto& counter : next_) counter.value.store(0, std::memory_order_relaxed);
    publish(&job);
    work(0, job);
  }

  int threads() const { return static_cast<int>(crew_.size()) + 1; }

  const int wanted;
  const pid_t process = getpid();

 private:
  friend struct Worker;
  struct alignas(64) Counter {
    std::atomic<long> value{0};
  };

  // Starts the missing threads. If the system refuses a thread, the existing ones do the work, and
  // the next call tries again.
  void hire() {
    try {
      while (threads() < wanted)
        crew_.emplace_back([this, place = threads(), calls = calls_.value.load()] {
          serve(place, calls);
        });
    } catch (const std::exception&) {
    }
  }

  void publish(const std::function<void(Worker&)>* job) {
    {
      const std::lock_guard<std::mutex> lock(idle_);
      job_ = job;
      calls_.value.fetch_add(1, std::memory_order_release);
    }
    called_.notify_all();
  }

  // A job must not throw: the other threads would wait at the barrier for ever.
  void work(int place, const std::function<void(Worker&)>& job) noexcept {
    Worker worker{this, place, threads(), 0};
    job(worker);
    worker.meet();
  }

  void serve(int place, long seen) {
    for (;; ++seen) {
      const auto called = [&] { return calls_.value.load(std::memory_order_acquire) != seen; };
      for (long n = 0; n < kSpins && !called(); ++n) relax();
      if (!called()) {
        std::unique_lock<std::mutex> lock(idle_);
        called_.wait(lock, called);
      }
      if (!job_) return;
      work(place, *job_);
    }
  }

  std::vector<std::thread> crew_;
  std::mutex idle_;
  std::condition_variable called_;
  const std::function<void(Worker&)>* job_ = nullptr;
  Counter calls_, arrived_, met_;
  Counter next_[kLoops];
};

template <typename Body>
void Worker::share(long count, long chunk, Body body) {
  auto& next = team->next_[loop % kLoops].value;
  // Reset the counter that is half a round ahead: no thread uses it now, because barriers keep all
  // threads within a few loops of each other.
  team->next_[(loop + kLoops / 2) % kLoops].value.store(0, std::memory_order_relaxed);
  ++loop;
  while (true) {
    const long begin = next.fetch_add(chunk, std::memory_order_relaxed);
    if (begin >= count) return;
    for (long n = begin; n < begin + chunk && n < count; ++n) body(n);
  }
}

inline void Worker::meet() {
  // The last thread to arrive starts the next round by increasing met_. The others spin first,
  // since the wait is usually shorter than waking a thread takes, and then yield the processor.
  auto& met = team->met_.value;
  const long before = met.load(std::memory_order_relaxed);
  if (team->arrived_.value.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
    team->arrived_.value.store(0, std::memory_order_relaxed);
    met.store(before + 1, std::memory_order_release);
    return;
  }
  for (long n = 0; met.load(std::memory_order_acquire) == before; ++n)
    n < kSpins ? relax() : std::this_thread::yield();
}

struct Disband {
  void operator()(Team* team) const {
    // After a fork the child has the team's memory but none of its threads: do not join them.
    if (team->process == getpid()) delete team;
  }
};

// Returns the calling thread's own team of `threads` threads. They end with the calling thread.
inline Team& team_of(int threads) {
  thread_local std::unique_ptr<Team, Disband> own;
  if (!own || own->wanted != threads || own->process != getpid()) {
    own.reset();
    own.reset(new Team(threads));
  }
  return *own;
}

}  // namespace
