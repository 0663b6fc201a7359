#include "gather.h"

#include <algorithm>

#include "dispatch.h"

namespace muxtable {
namespace {

// Work below this many rows runs on one thread: starting a second costs microseconds.
constexpr int64_t kSmall = 2048;
constexpr int64_t kSmallCheck = 1 << 17;  // numbers checked, which is quicker than copying rows

// Whether to write around the caches: the output is larger than them and made of whole lines.
bool should_stream(const GatherTask& task) {
  constexpr int64_t kLine = 16;
  const int64_t bytes = task.num_samples * task.num_lookups * task.width * 4;
  bool aligned = task.width % kLine == 0 && task.out_stride % kLine == 0 &&
                 reinterpret_cast<uintptr_t>(task.out) % 64 == 0;
  for (int64_t l = 0; l < task.num_lookups; ++l) aligned &= task.columns[l] % kLine == 0;
  return aligned && bytes > kCacheBytes;
}

}  // namespace

int64_t first_outside(const RowMatrix& rows, int64_t table_rows, int threads) {
  const Loops& isa = loops();
  const uint64_t limit = static_cast<uint64_t>(table_rows);
  bool outside = false;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(|| : outside) \
    if (threads > 1 && rows.count * rows.n > kSmallCheck)
  for (int64_t l = 0; l < rows.count; ++l)
    outside = outside || (rows.n > 0 && isa.largest(rows.rows + l * rows.stride, rows.n) >= limit);
  if (!outside) return -1;
  for (int64_t l = 0; l < rows.count; ++l)
    for (int64_t i = 0; i < rows.n; ++i)
      if (static_cast<uint64_t>(rows.rows[l * rows.stride + i]) >= limit) return l * rows.n + i;
  return -1;  // not reached
}

void gather(GatherTask task, int threads) {
  const Loops& isa = loops();
  task.streaming = should_stream(task);
  const int64_t lookups = std::max<int64_t>(1, task.num_lookups);
  const int64_t block = std::max<int64_t>(1, 2048 / lookups);
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (threads > 1 && task.num_samples * lookups > kSmall)
  for (int64_t first = 0; first < task.num_samples; first += block)
    isa.gather(task, first, std::min(first + block, task.num_samples));
}

void gather_bags(const BagTask& task, int64_t num_samples, int threads) {
  const Loops& isa = loops();
  constexpr int64_t kBlock = 64;
#pragma omp parallel for schedule(dynamic) num_threads(threads) \
    if (threads > 1 && (task.offsets[num_samples] - task.offsets[0]) * task.num_lookups > kSmall)
  for (int64_t first = 0; first < num_samples; first += kBlock)
    isa.gather_bags(task, first, std::min(first + kBlock, num_samples));
}

}  // namespace muxtable
