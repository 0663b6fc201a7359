#include "barrier.h"

#include <chrono>
#include <climits>
#include <ctime>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

namespace muxtable {
namespace {

bool reached(const uint32_t* arrivals, uint32_t target, uint32_t& seen) {
  seen = __atomic_load_n(arrivals, __ATOMIC_ACQUIRE);
  return static_cast<int32_t>(seen - target) >= 0;
}

void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// Sleeps until the counter is no longer `seen`, is woken, or the time is over.
void sleep_at(const uint32_t* arrivals, uint32_t seen, std::chrono::nanoseconds left) {
#ifdef __linux__
  timespec time{};
  time.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
  time.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
  syscall(SYS_futex, arrivals, FUTEX_WAIT, seen, &time, nullptr, 0);
#else
  (void)arrivals, (void)seen, (void)left;
  sched_yield();
#endif
}

}  // namespace

void arrive(uint32_t* arrivals, uint32_t target) {
  const uint32_t count = __atomic_add_fetch(arrivals, 1u, __ATOMIC_ACQ_REL);
#ifdef __linux__
  if (count == target) syscall(SYS_futex, arrivals, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)count, (void)target;
#endif
}

bool wait_for(const uint32_t* arrivals, uint32_t target, int64_t spins, int64_t timeout_us) {
  using Clock = std::chrono::steady_clock;
  uint32_t seen = 0;
  for (int64_t i = 0; i < spins; ++i) {
    if (reached(arrivals, target, seen)) return true;
    pause();
  }
  const auto end = Clock::now() + std::chrono::microseconds(timeout_us);
  while (!reached(arrivals, target, seen)) {
    const auto left = end - Clock::now();
    if (left.count() <= 0) return false;
    sleep_at(arrivals, seen, std::chrono::duration_cast<std::chrono::nanoseconds>(left));
  }
  return true;
}

}  // namespace muxtable
