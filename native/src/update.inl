// The buckets of a step: duplicates found, gradients summed in registers, each row updated once.

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int64_t kUpdateAhead = 48;  // entries asked for ahead; 32 to 64 measured alike
constexpr int64_t kMaxWidth = 1024;

MUXTABLE_INLINE const float* gradient_at(const UpdateTask& task, uint64_t offset) {
  return task.gradients[(offset >> kScaledBit) & 1] + (offset & (kOffsetMask >> 1));
}

// Chains the entries of each distinct row, in their order, and lists the chains' heads.
//
// The table holds the last entry seen of a row. Written without branches: whether a row was seen
// before is what a processor cannot predict. A new row chains to entry 0, which nobody reads.
template <bool Direct>
int64_t chain(const Buckets& buckets, const Scratch& scratch) {
  uint32_t* const table = scratch.table;
  uint32_t* const next = scratch.next;
  const int64_t start = buckets.first == 0 ? 0 : buckets.ends[buckets.first - 1];
  const uint64_t* const entries = buckets.entries + start - 1;  // numbered from 1
  int64_t num_rows = 0;
  uint32_t e = 1;
  for (int64_t p = buckets.first; p < buckets.last; ++p) {
    const uint32_t begin = e, end = static_cast<uint32_t>(buckets.ends[p] - start + 1);
    const int64_t first_row = p << buckets.shift, first_new = num_rows;
    const uint64_t slots = Direct ? 0 : static_cast<uint64_t>(hash_slots(end - begin));
    const int drop = Direct ? 0 : 64 - __builtin_ctzll(slots);
    for (; e < end; ++e) {
      const uint64_t row = entries[e] >> kOffsetBits;
      uint64_t slot = row;
      uint32_t previous = 0;
      if (Direct) {
        previous = table[slot];
      } else {
        slot = (row * kGolden) >> drop;
        while ((previous = table[slot]) != 0 && entries[previous] >> kOffsetBits != row)
          slot = (slot + 1) & (slots - 1);
      }
      table[slot] = e;
      next[previous] = e;
      next[e] = 0;
      scratch.heads[num_rows] = e;
      scratch.rows[num_rows] = first_row + static_cast<int64_t>(row);
      num_rows += previous == 0;
    }
    if (Direct) {
      for (int64_t u = first_new; u < num_rows; ++u) table[scratch.rows[u] - first_row] = 0;
    } else {
      for (uint64_t slot = 0; slot < slots; ++slot) table[slot] = 0;
    }
  }
  scratch.heads[num_rows] = 0;
  return num_rows;
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
  const uint64_t* entries;  // numbered from 1
  int64_t num_rows;
  const Scratch& scratch;

  MUXTABLE_INLINE const float* gradient(uint32_t e) const { return gradient_at(task, entries[e]); }

  template <int Chunks>
  MUXTABLE_INLINE void prefetch(int64_t row) const {
    const int64_t last = task.width - 1;
    prefetch_row<Chunks, true>(task.table + row * task.table_stride, last);
    if (kind == kRowwiseAdagrad) __builtin_prefetch(task.state[0] + row * task.state_stride[0], 1);
    if (kind == kAdagrad || kind == kAdam)
      prefetch_row<Chunks, true>(task.state[0] + row * task.state_stride[0], last);
    if (kind == kAdam)
      prefetch_row<Chunks, true>(task.state[1] + row * task.state_stride[1], last);
  }

  // Walks the chains ahead of the sums and asks for what they will need.
  template <int Chunks>
  struct Scout {
    const UpdateRows& run;
    int64_t u = 0;
    uint32_t e;

    MUXTABLE_INLINE explicit Scout(const UpdateRows& r) : run(r), e(r.scratch.heads[0]) {
      run.prefetch<Chunks>(run.scratch.rows[0]);
    }

    MUXTABLE_INLINE void step() {
      if (e == 0) return;
      prefetch_row<Chunks, false>(run.gradient(e), run.task.width - 1);
      e = run.scratch.next[e];
      if (e != 0) return;
      e = run.scratch.heads[++u];
      if (e != 0) run.prefetch<Chunks>(run.scratch.rows[u]);
    }
  };

  template <int Chunks, bool Partial>
  int64_t run() const {
    using Gradient = Row<Chunks, Partial>;
    const Tail tail = tail_of(static_cast<int>(task.width % kLanes));
    Scout<Chunks> scout(*this);
    for (int64_t i = 0; i < kUpdateAhead; ++i) scout.step();
    for (int64_t u = 0; u < num_rows; ++u) {
      uint32_t e = scratch.heads[u];
      Gradient grad = Gradient::load_from(gradient(e), tail);
      scout.step();
      while ((e = scratch.next[e]) != 0) {
        grad.add(Gradient::load_from(gradient(e), tail));
        scout.step();
      }
      const Step<kind> step(task, scratch.rows[u]);
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
    return num_rows;
  }

  // Rows of more than 128 floats: their summed gradient waits in the L1 cache.
  int64_t run_wide() const {
    const int64_t width = task.width, whole = width / kLanes * kLanes;
    const Tail tail = tail_of(static_cast<int>(width - whole));
    alignas(64) float grad[kMaxWidth];
    Scout<0> scout(*this);
    for (int64_t i = 0; i < wide_ahead(width); ++i) scout.step();
    for (int64_t u = 0; u < num_rows; ++u) {
      uint32_t e = scratch.heads[u];
      const float* source = gradient(e);
      if (whole < width) store(grad + whole, broadcast(0));
      for (int64_t j = 0; j < width; ++j) grad[j] = source[j];
      scout.step();
      while ((e = scratch.next[e]) != 0) {
        source = gradient(e);
        for (int64_t j = 0; j < width; ++j) grad[j] += source[j];
        scout.step();
      }
      const Step<kind> step(task, scratch.rows[u]);
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
    return num_rows;
  }
};

template <Optimizer kind>
int64_t update_rows(const UpdateTask& task, const Buckets& buckets, const Scratch& scratch) {
  const int64_t num_rows = buckets.shift <= kMaxDirectShift ? chain<true>(buckets, scratch)
                                                            : chain<false>(buckets, scratch);
  const int64_t start = buckets.first == 0 ? 0 : buckets.ends[buckets.first - 1];
  if (num_rows == 0) return 0;
  return with_width(task.width,
                    UpdateRows<kind>{task, buckets.entries + start - 1, num_rows, scratch});
}

int64_t update(const UpdateTask& task, const Buckets& buckets, const Scratch& scratch) {
  switch (task.optimizer) {
    case kRowwiseAdagrad:
      return update_rows<kRowwiseAdagrad>(task, buckets, scratch);
    case kAdagrad:
      return update_rows<kAdagrad>(task, buckets, scratch);
    case kAdam:
      return update_rows<kAdam>(task, buckets, scratch);
    default:
      return update_rows<kSgd>(task, buckets, scratch);
  }
}

}  // namespace
}  // namespace MUXTABLE_ISA
}  // namespace muxtable
