#include "codecs.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.h"

namespace muxtable {
namespace {

// Fewer rows run on one thread: starting a second costs microseconds.
constexpr int64_t kSmallCall = 4096;
constexpr int64_t kRun = 1024;  // rows of a run

// Calls work(first, last) for all runs of n rows.
template <typename Work>
void in_runs(int64_t n, int threads, const Work& work) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n > kSmallCall)
  for (int64_t first = 0; first < n; first += kRun) work(first, std::min(first + kRun, n));
}

}  // namespace

int64_t first_unfit(const float* rows, int64_t stride, int64_t n, int64_t width, float limit,
                    int threads) {
  const CodecLoops& isa = loops().codecs;
  uint32_t bits;
  std::memcpy(&bits, &limit, sizeof bits);
  bool unfit = false;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(|| : unfit) \
    if (threads > 1 && n > kSmallCall)
  for (int64_t first = 0; first < n; first += kRun) {
    const int64_t last = std::min(first + kRun, n);
    const bool whole = stride == width;
    const int64_t steps = whole ? 1 : last - first, floats = whole ? (last - first) * width : width;
    for (int64_t i = 0; i < steps; ++i)
      unfit = unfit || isa.largest_bits(rows + (first + i) * stride, floats) > bits;
  }
  if (!unfit) return -1;
  for (int64_t i = 0; i < n; ++i)
    if (isa.largest_bits(rows + i * stride, width) > bits) return i;
  return -1;  // not reached
}

void encode_coded(const EncodeTask& task, int64_t n, int threads) {
  const CodecLoops& isa = loops().codecs;
  in_runs(n, threads, [&](int64_t first, int64_t last) { isa.encode(task, first, last); });
}

void encode_pq_coded(EncodePqTask task, const float* codebook, int64_t n, int threads) {
  const int64_t width = task.part_width;
  std::vector<float> columns(static_cast<size_t>(task.parts * width * kEntries));
  for (int64_t m = 0; m < task.parts; ++m)
    for (int64_t e = 0; e < kEntries; ++e)
      for (int64_t j = 0; j < width; ++j)
        columns[static_cast<size_t>((m * width + j) * kEntries + e)] =
            codebook[(m * kEntries + e) * width + j];
  task.columns = columns.data();
  const CodecLoops& isa = loops().codecs;
  in_runs(n, threads, [&](int64_t first, int64_t last) { isa.encode_pq(task, first, last); });
}

void decode_coded(const DecodeTask& task, int64_t n, int threads) {
  const CodecLoops& isa = loops().codecs;
  in_runs(n, threads, [&](int64_t first, int64_t last) { isa.decode(task, first, last); });
}

void copy_coded(const CopyTask& task, int64_t n, int threads) {
  const CodecLoops& isa = loops().codecs;
  in_runs(n, threads, [&](int64_t first, int64_t last) { isa.copy_coded(task, first, last); });
}

void affine(const AffineTask& task, int64_t n, int threads) {
  const CodecLoops& isa = loops().codecs;
  in_runs(n, threads, [&](int64_t first, int64_t last) { isa.affine(task, first, last); });
}

}  // namespace muxtable
