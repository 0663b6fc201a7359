// One bucket of a step: duplicates found, gradients summed in registers, each row updated once.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kUpdateAhead = 16;  // unique rows asked for ahead, and gradients
constexpr int64_t kMaxWidth = 1024;

MUXTABLE_INLINE const float* gradient_at(const UpdateTask& task, uint64_t offset) {
  return task.gradients[(offset >> kScaledBit) & 1] + (offset & (kOffsetMask >> 1));
}

// Numbers the bucket's distinct rows in the order they appear and groups the gradients' offsets by
// them, in the order of the entries. Returns how many there are; starts[u] is then the *end* of u.
int64_t group(const uint64_t* entries, int64_t num_entries, const Scratch& scratch) {
  const uint64_t slots = static_cast<uint64_t>(num_slots(num_entries));
  const int shift = 64 - __builtin_ctzll(slots);
  uint64_t* const table = scratch.slots;
  for (uint64_t s = 0; s < slots; ++s) table[s] = 0;
  uint32_t* const counts = scratch.starts;
  uint32_t num_unique = 0;
  for (int64_t i = 0; i < num_entries; ++i) {
    const uint64_t row = entries[i] >> kOffsetBits;
    uint64_t slot = (row * kGolden) >> shift;
    uint64_t seen = table[slot];
    while (seen != 0 && (seen >> 32) != row) {
      slot = (slot + 1) & (slots - 1);
      seen = table[slot];
    }
    uint32_t u = static_cast<uint32_t>(seen) - 1;
    if (seen == 0) {
      u = num_unique++;
      table[slot] = (row << 32) | num_unique;
      scratch.rows[u] = static_cast<uint32_t>(row);
      counts[u] = 0;
    }
    ++counts[u];
    scratch.unique[i] = u;
  }
  uint32_t place = 0;
  for (uint32_t u = 0; u < num_unique; ++u) {
    const uint32_t count = counts[u];
    counts[u] = place;
    place += count;
  }
  for (int64_t i = 0; i < num_entries; ++i)
    scratch.sorted[counts[scratch.unique[i]]++] = entries[i] & kOffsetMask;
  return num_unique;
}

// The optimizers, for one chunk of a row. `factor` is the row's own, from row-wise Adagrad.
template <Optimizer kind>
struct Step {
  const UpdateTask& task;
  float *weight, *first, *second;

  MUXTABLE_INLINE Step(const UpdateTask& t, int64_t row) : task(t) {
    weight = t.table + row * t.table_stride;
    first = t.state[0] + row * t.state_stride[0];
    second = t.state[1] + row * t.state_stride[1];
  }

  MUXTABLE_INLINE float factor(float squares) const {
    if (kind != kRowwiseAdagrad) return task.learning_rate;
    const float total = *first + squares / static_cast<float>(task.width);
    *first = total;
    return task.learning_rate / (__builtin_sqrtf(total) + task.eps);
  }

  // Loads, changes and stores the lanes at `at`; `Access` is nothing or a Tail.
  template <typename... Access>
  MUXTABLE_INLINE void apply(int64_t at, const Chunk& grad, float factor,
                             const Access&... access) const {
    const Chunk old = load(weight + at, access...);
    Chunk change;
    if (kind == kAdagrad) {
      const Chunk total = load(first + at, access...) + grad * grad;
      store(first + at, total, access...);
      change = broadcast(factor) * grad / (root(total) + broadcast(task.eps));
    } else if (kind == kAdam) {
      Chunk m = load(first + at, access...), v = load(second + at, access...);
      m = m + (grad - m) * broadcast(task.beta1_rest);
      v = v + (grad * grad - v) * broadcast(task.beta2_rest);
      store(first + at, m, access...);
      store(second + at, v, access...);
      change = broadcast(task.step_size) * (m / (root(v) + broadcast(task.eps)));
    } else {
      change = broadcast(factor) * grad;
    }
    store(weight + at, old - change, access...);
  }
};

template <Optimizer kind>
struct UpdateRows {
  const UpdateTask& task;
  int64_t first_row, num_unique;
  const Scratch& scratch;

  template <int Chunks>
  MUXTABLE_INLINE void prefetch(int64_t u) const {
    const int64_t row = first_row + scratch.rows[u], last = task.width - 1;
    prefetch_row<Chunks, true>(task.table + row * task.table_stride, last);
    if (kind == kRowwiseAdagrad) __builtin_prefetch(task.state[0] + row * task.state_stride[0], 1);
    if (kind == kAdagrad || kind == kAdam)
      prefetch_row<Chunks, true>(task.state[0] + row * task.state_stride[0], last);
    if (kind == kAdam)
      prefetch_row<Chunks, true>(task.state[1] + row * task.state_stride[1], last);
  }

  template <int Chunks, bool Partial>
  int64_t run() const {
    using Gradient = Row<Chunks, Partial>;
    const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
    const int64_t count = scratch.starts[num_unique - 1], last = task.width - 1;
    const uint64_t* const sorted = scratch.sorted;
    for (int64_t u = 0; u < kUpdateAhead && u < num_unique; ++u) prefetch<Chunks>(u);
    for (int64_t i = 0; i < kUpdateAhead && i < count; ++i)
      prefetch_row<Chunks, false>(gradient_at(task, sorted[i]), last);
    int64_t i = 0;
    for (int64_t u = 0; u < num_unique; ++u) {
      if (u + kUpdateAhead < num_unique) prefetch<Chunks>(u + kUpdateAhead);
      const int64_t end = scratch.starts[u];
      Gradient grad = Gradient::load_from(gradient_at(task, sorted[i]), tail);
      if (i + kUpdateAhead < count)
        prefetch_row<Chunks, false>(gradient_at(task, sorted[i + kUpdateAhead]), last);
      for (++i; i < end; ++i) {
        if (i + kUpdateAhead < count)
          prefetch_row<Chunks, false>(gradient_at(task, sorted[i + kUpdateAhead]), last);
        grad.add(Gradient::load_from(gradient_at(task, sorted[i]), tail));
      }
      const Step<kind> step(task, first_row + scratch.rows[u]);
      float squares = 0;
      if (kind == kRowwiseAdagrad) {
        Chunk lanes = grad.chunk[0] * grad.chunk[0];
        for (int c = 1; c < Chunks; ++c) lanes = lanes + grad.chunk[c] * grad.chunk[c];
        squares = sum(lanes);
      }
      const float factor = step.factor(squares);
      for (int c = 0; c < Chunks; ++c) {
        if (Partial && c == Chunks - 1)
          step.apply(kLanes * c, grad.chunk[c], factor, tail);
        else
          step.apply(kLanes * c, grad.chunk[c], factor);
      }
    }
    return num_unique;
  }

  // Rows of more than 64 floats: their summed gradient waits in the L1 cache.
  int64_t run_wide() const {
    const int64_t width = task.width, whole = width / kLanes * kLanes;
    const Tail tail = tail_of(static_cast<int>(width - whole));
    alignas(64) float grad[kMaxWidth];
    int64_t i = 0;
    for (int64_t u = 0; u < num_unique; ++u) {
      if (u + 4 < num_unique) prefetch<4>(u + 4);
      if (whole < width) store(grad + whole, broadcast(0));
      const float* source = gradient_at(task, scratch.sorted[i]);
      for (int64_t j = 0; j < width; ++j) grad[j] = source[j];
      for (++i; i < scratch.starts[u]; ++i) {
        source = gradient_at(task, scratch.sorted[i]);
        for (int64_t j = 0; j < width; ++j) grad[j] += source[j];
      }
      const Step<kind> step(task, first_row + scratch.rows[u]);
      float squares = 0;
      if (kind == kRowwiseAdagrad) {
        Chunk lanes = broadcast(0);
        for (int64_t j = 0; j < width; j += kLanes) lanes = lanes + load(grad + j) * load(grad + j);
        squares = sum(lanes);
      }
      const float factor = step.factor(squares);
      for (int64_t j = 0; j < whole; j += kLanes) step.apply(j, load(grad + j), factor);
      if (whole < width) step.apply(whole, load(grad + whole), factor, tail);
    }
    return num_unique;
  }
};

int64_t update(const UpdateTask& task, int64_t first_row, const uint64_t* entries,
               int64_t num_entries, const Scratch& scratch) {
  const int64_t num_unique = group(entries, num_entries, scratch);
  switch (task.optimizer) {
    case kRowwiseAdagrad:
      return with_width(task.width,
                        UpdateRows<kRowwiseAdagrad>{task, first_row, num_unique, scratch});
    case kAdagrad:
      return with_width(task.width, UpdateRows<kAdagrad>{task, first_row, num_unique, scratch});
    case kAdam:
      return with_width(task.width, UpdateRows<kAdam>{task, first_row, num_unique, scratch});
    default:
      return with_width(task.width, UpdateRows<kSgd>{task, first_row, num_unique, scratch});
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
