// The inner loops that exist once per instruction set, as a table of plain functions.
//
// Only C types here: a file compiled with -march must not instantiate inline library functions,
// since the linker may keep its copy for every caller and an older processor would meet
// instructions it does not have. Threads stay outside as well: callers hand out ranges.
#pragma once

#include <cstdint>

#include "codec_loops.h"

namespace muxtable {

// An optimizer of the table; the numbers are those of native/kernels.py.
enum Optimizer : int { kRowwiseAdagrad = 0, kAdagrad = 1, kAdam = 2, kSgd = 3 };

// How one lookup turns keys into rows: base + mulhi64(mix64(key ^ salt), size).
struct LookupHash {
  uint64_t salt;
  uint64_t null_salt;
  int64_t base;
  uint64_t size;
};

// Where the gathered rows of univalent lookups come from and go to.
struct GatherTask {
  const float* table;
  int64_t table_stride;
  int64_t width;
  const int64_t* rows;  // [num_lookups, row_stride], feature-major
  int64_t row_stride;
  int64_t num_lookups;
  const int64_t* columns;  // [num_lookups]
  float* out;
  int64_t out_stride;
  int64_t num_samples;
  bool streaming;  // write around the caches: the output is larger than they are
};

// The rows of one list feature, pooled within each lookup.
struct BagTask {
  const float* table;
  int64_t table_stride;
  int64_t width;
  const int64_t* rows;  // [num_lookups, row_stride]
  int64_t row_stride;
  int64_t num_lookups;
  const int64_t* offsets;  // [samples + 1]
  bool mean;
  float* out;  // already at the feature's column
  int64_t out_stride;
};

// One optimizer step. Gradients are addressed by offsets into one of two buffers: the gradient
// itself, and the part of it that was scaled for bags pooled by mean.
struct UpdateTask {
  Optimizer optimizer;
  int64_t width;
  float* table;
  int64_t table_stride;
  float* state[2];
  int64_t state_stride[2];
  const float* gradients[2];
  float learning_rate;
  float eps;
  float beta1_rest;  // 1 - beta1
  float beta2_rest;
  float step_size;  // Adam: learning_rate * sqrt(1 - beta2^step) / (1 - beta1^step)
};

// The gradients of distinct rows, summed one after another.
struct SumTask {
  int64_t width;
  const float* gradients[2];  // as in UpdateTask
  const uint64_t* offsets;    // entry -> where its gradient lies, as in an entry of a bucket
  const uint32_t* order;      // entries by distinct row
  const uint32_t* starts;     // [rows + 1] where a distinct row's entries start in `order`
  float* out;
  int64_t out_stride;
};

// An entry of a bucket: its row inside the bucket in the high bits, where its gradient lies below.
constexpr int kOffsetBits = 40;
constexpr uint64_t kOffsetMask = (uint64_t{1} << kOffsetBits) - 1;
constexpr int kScaledBit = kOffsetBits - 1;  // set: offset into gradients[1]
constexpr int64_t kMaxBucketRows = int64_t{1} << (64 - kOffsetBits);

// Buckets of a step that are processed in one go, and what is known of them.
struct Buckets {
  const uint64_t* entries;  // of all buckets
  const int64_t* ends;      // bucket p holds entries [ends[p - 1], ends[p])
  int64_t first, last;      // the buckets of this go
  int shift;                // bucket p holds the rows [p << shift, (p + 1) << shift)
};

// Working memory of one thread, for a go of n entries. Entries are numbered from 1, 0 is none.
struct Scratch {
  uint32_t* table;  // all zero between goes; table_size(...) long
  uint32_t* next;   // [n + 1] entry -> the next one of its row
  uint32_t* heads;  // [n + 1] distinct row -> its first entry
  int64_t* rows;    // [n + 1] distinct row -> its number
};

// Where a bucket's rows are few they index the table; else they are hashed into it.
constexpr int kMaxDirectShift = 16;
inline int64_t hash_slots(int64_t entries) {
  int64_t slots = 64;
  while (slots < 4 * entries) slots *= 2;
  return slots;
}
inline int64_t table_size(int shift, int64_t largest_bucket) {
  return shift <= kMaxDirectShift ? int64_t{1} << shift : hash_slots(largest_bucket);
}

struct Loops {
  void (*mix)(const uint64_t* in, uint64_t* out, int64_t n);
  void (*combine)(uint64_t* acc, const uint64_t* keys, uint64_t increment, int64_t n);
  void (*hash)(const uint64_t* keys, const uint8_t* nulls, const LookupHash& lookup, int64_t* out,
               int64_t n);
  // Largest of n row numbers taken as unsigned, so that a negative one is out of any range.
  uint64_t (*largest)(const int64_t* rows, int64_t n);
  void (*uniform)(float* row, uint64_t row_key, float scale, int64_t width);
  void (*gather)(const GatherTask& task, int64_t first, int64_t last);
  void (*gather_bags)(const BagTask& task, int64_t first, int64_t last);
  // Sums the gradients of each row, in the order of the entries, and updates each row once.
  // Returns the number of rows.
  int64_t (*update)(const UpdateTask& task, const Buckets& buckets, const Scratch& scratch);
  // Scales `width` gradients by `scale`.
  void (*scale)(const float* in, float scale, float* out, int64_t width);
  // Writes the sums of the distinct rows [first, last), each in the order of its entries.
  void (*sum_gradients)(const SumTask& task, int64_t first, int64_t last);
  // The limits: what the memory gives when nothing else is done. Rows are 32 floats.
  void (*copy_rows)(const float* table, int64_t stride, const int64_t* rows, int64_t n,
                    float* out, bool streaming);
  void (*change_rows)(float* table, int64_t stride, const int64_t* rows, int64_t n);
  float (*read_all)(const float* data, int64_t n);
  CodecLoops codecs;
};

// Outputs of more bytes are written around the caches: about what the largest caches hold.
constexpr int64_t kCacheBytes = 24 << 20;

namespace baseline {
extern const Loops loops;
}
namespace avx2 {
extern const Loops loops;
}
namespace avx512 {
extern const Loops loops;
}

}  // namespace muxtable
