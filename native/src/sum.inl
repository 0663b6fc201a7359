// The gradients of each distinct row, summed: read at random, written from front to back.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kSumAhead = 32;  // gradients asked for ahead

struct SumRows {
  const SumTask& task;
  int64_t first, last;

  MUXTABLE_INLINE const float* gradient(int64_t place) const {
    const uint64_t offset = task.offsets[task.order[place]];
    return task.gradients[(offset >> kScaledBit) & 1] + (offset & (kOffsetMask >> 1));
  }

  template <int Chunks, bool Partial>
  int run() const {
    using Gradient = Row<Chunks, Partial>;
    const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
    const int64_t end = task.starts[last], width = task.width;
    int64_t k = task.starts[first];
    for (int64_t i = k; i < k + kSumAhead && i < end; ++i)
      prefetch_row<Chunks, false>(gradient(i), width - 1);
    float* out = task.out + first * task.out_stride;
    for (int64_t u = first; u < last; ++u, out += task.out_stride) {
      const int64_t stop = task.starts[u + 1];
      if (k + kSumAhead < end) prefetch_row<Chunks, false>(gradient(k + kSumAhead), width - 1);
      Gradient sum = Gradient::load_from(gradient(k), tail);
      while (++k < stop) {
        if (k + kSumAhead < end) prefetch_row<Chunks, false>(gradient(k + kSumAhead), width - 1);
        sum.add(Gradient::load_from(gradient(k), tail));
      }
      sum.store_to(out, tail);
    }
    return 0;
  }

  int run_wide() const {
    float* out = task.out + first * task.out_stride;
    for (int64_t u = first; u < last; ++u, out += task.out_stride) {
      const float* source = gradient(task.starts[u]);
      for (int64_t j = 0; j < task.width; ++j) out[j] = source[j];
      for (int64_t k = task.starts[u] + 1; k < task.starts[u + 1]; ++k) {
        source = gradient(k);
        for (int64_t j = 0; j < task.width; ++j) out[j] += source[j];
      }
    }
    return 0;
  }
};

void sum_gradients(const SumTask& task, int64_t first, int64_t last) {
  with_width(task.width, SumRows{task, first, last});
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
