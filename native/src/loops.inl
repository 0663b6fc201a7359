// The inner loops, compiled once per instruction set in a namespace of its own.

#include "loops.h"
#include "mix.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace muxtable {
namespace MUXTABLE_ISA {
namespace {

constexpr int kLanes = 16;  // partial sums of a row's squares: the same on every instruction set
constexpr int kAhead = 32;

void mix(const uint64_t* in, uint64_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = mix64(in[i]);
}

void combine(uint64_t* acc, const uint64_t* keys, uint64_t increment, int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] = mix64((acc[i] ^ keys[i]) + increment);
}

void hash(const uint64_t* keys, const uint8_t* nulls, const LookupHash& lookup, int64_t* out,
          int64_t n) {
  const uint64_t salt = lookup.salt, size = lookup.size;
  const int64_t base = lookup.base;
  for (int64_t i = 0; i < n; ++i)
    out[i] = base + static_cast<int64_t>(mulhi64(mix64(keys[i] ^ salt), size));
  if (nulls == nullptr) return;
  const int64_t null_row = base + static_cast<int64_t>(mulhi64(mix64(lookup.null_salt), size));
  for (int64_t i = 0; i < n; ++i) out[i] = nulls[i] ? null_row : out[i];
}

uint64_t largest(const int64_t* rows, int64_t n) {
  uint64_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t row = static_cast<uint64_t>(rows[i]);
    most = row > most ? row : most;
  }
  return most;
}

void uniform(float* row, uint64_t row_key, float scale, int64_t width) {
  for (int64_t j = 0; j < width; ++j) {
    const uint64_t h = mix64(row_key + static_cast<uint64_t>(j + 1) * kGolden);
    row[j] = static_cast<float>(static_cast<int32_t>(h >> 40) - (1 << 23)) * scale;
  }
}

void scale_row(const float* in, float scale, float* out, int64_t width) {
  for (int64_t j = 0; j < width; ++j) out[j] = in[j] * scale;
}

void gather(const GatherTask& task, int64_t first, int64_t last) {
  for (int64_t b = first; b < last; ++b) {
    for (int64_t l = 0; l < task.num_lookups; ++l) {
      const float* row = task.table + task.rows[l * task.row_stride + b] * task.table_stride;
      float* out = task.out + b * task.out_stride + task.columns[l];
      for (int64_t j = 0; j < task.width; ++j) out[j] = row[j];
    }
  }
}

void gather_bags(const BagTask& task, int64_t first, int64_t last) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t begin = task.offsets[b], end = task.offsets[b + 1];
    for (int64_t k = 0; k < task.num_lookups; ++k) {
      float* out = task.out + b * task.out_stride + k * task.width;
      const int64_t* rows = task.rows + k * task.row_stride;
      for (int64_t j = 0; j < task.width; ++j) out[j] = 0;
      for (int64_t i = begin; i < end; ++i) {
        const float* row = task.table + rows[i] * task.table_stride;
        for (int64_t j = 0; j < task.width; ++j) out[j] += row[j];
      }
      if (task.mean && end > begin) {
        const float scale = 1.0f / static_cast<float>(end - begin);
        for (int64_t j = 0; j < task.width; ++j) out[j] *= scale;
      }
    }
  }
}

inline float root(float x) { return __builtin_sqrtf(x); }

void step(const UpdateTask& task, int64_t row, const float* grad) {
  const int64_t width = task.width;
  float* weight = task.table + row * task.table_stride;
  const float rate = task.learning_rate, eps = task.eps;
  if (task.optimizer == kRowwiseAdagrad) {
    float lanes[kLanes] = {};
    for (int64_t j = 0; j < width; ++j) lanes[j % kLanes] += grad[j] * grad[j];
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    float& sum = task.state[0][row * task.state_stride[0]];
    sum += lanes[0] / static_cast<float>(width);
    const float factor = rate / (root(sum) + eps);
    for (int64_t j = 0; j < width; ++j) weight[j] -= factor * grad[j];
  } else if (task.optimizer == kAdagrad) {
    float* sums = task.state[0] + row * task.state_stride[0];
    for (int64_t j = 0; j < width; ++j) {
      sums[j] += grad[j] * grad[j];
      weight[j] -= rate * grad[j] / (root(sums[j]) + eps);
    }
  } else if (task.optimizer == kAdam) {
    float* m = task.state[0] + row * task.state_stride[0];
    float* v = task.state[1] + row * task.state_stride[1];
    for (int64_t j = 0; j < width; ++j) {
      m[j] += (grad[j] - m[j]) * task.beta1_rest;
      v[j] += (grad[j] * grad[j] - v[j]) * task.beta2_rest;
      weight[j] -= task.step_size * (m[j] / (root(v[j]) + eps));
    }
  } else {
    for (int64_t j = 0; j < width; ++j) weight[j] -= rate * grad[j];
  }
}

int64_t update(const UpdateTask& task, int64_t first_row, const uint64_t* entries,
               int64_t num_entries, const Scratch& scratch) {
  const uint64_t slots = static_cast<uint64_t>(num_slots(num_entries));
  int shift = 64;
  for (uint64_t s = slots; s > 1; s >>= 1) --shift;
  for (uint64_t s = 0; s < slots; ++s) scratch.slots[s] = 0;
  uint32_t num_unique = 0;
  uint32_t* counts = scratch.starts;
  for (int64_t i = 0; i < num_entries; ++i) {
    const uint64_t row = entries[i] >> kOffsetBits;
    uint64_t slot = (row * kGolden) >> shift;
    uint32_t u;
    while (true) {
      const uint64_t seen = scratch.slots[slot];
      if (seen == 0) {
        u = num_unique++;
        scratch.slots[slot] = (row << 32) | (u + 1);
        scratch.rows[u] = static_cast<uint32_t>(row);
        counts[u] = 0;
        break;
      }
      if ((seen >> 32) == row) {
        u = static_cast<uint32_t>(seen) - 1;
        break;
      }
      slot = (slot + 1) & (slots - 1);
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
  // counts[u] is now the end of u.
  float grad[1024];
  uint32_t begin = 0;
  for (uint32_t u = 0; u < num_unique; ++u) {
    for (int64_t j = 0; j < task.width; ++j) grad[j] = 0;
    for (uint32_t i = begin; i < counts[u]; ++i) {
      const uint64_t offset = scratch.sorted[i];
      const float* source = task.gradients[offset >> kScaledBit] +
                            (offset & (kOffsetMask >> 1));
      for (int64_t j = 0; j < task.width; ++j) grad[j] += source[j];
    }
    begin = counts[u];
    step(task, first_row + scratch.rows[u], grad);
  }
  return num_unique;
}

}  // namespace

extern const Loops loops = {mix,    combine, hash,        largest, uniform,
                            gather, gather_bags, update, scale_row};

}  // namespace MUXTABLE_ISA
}  // namespace muxtable
