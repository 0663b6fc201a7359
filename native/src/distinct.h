// The distinct rows of a batch, grouped by the rank that owns them, and what leads back from them.
#pragma once

#include <cstdint>
#include <vector>

#include "update.h"

namespace muxtable {

struct RowRun {
  const int64_t* rows;
  int64_t size;
};

// N entries, the rows of all runs one after another; U distinct ones among them.
struct Distinct {
  int64_t* rows;      // [N] the first U: numbers inside the owner's range, owner by owner
  int64_t* places;    // [N] entry -> its distinct row
  uint32_t* order;    // [N] entries by distinct row, in their order inside
  uint32_t* starts;   // [N + 1] the first U + 1: where a distinct row's entries start in `order`
  int64_t* counts;    // [owners] distinct rows of each
};

// Owner k has the rows [bounds[k], bounds[k + 1]); all rows are inside the bounds.
void find_distinct(const std::vector<RowRun>& runs, int64_t num_entries,
                   const std::vector<int64_t>& bounds, const Distinct& out);

// Where the sums of one owner's rows go.
struct SumOutput {
  float* out;
  int64_t stride;
  int64_t rows;
};

// Sums the gradients of each distinct row in the order of its entries. The batch's entries are those
// `order` and `starts` were made of.
void sum_gradients(const BatchRows& batch, const float* gradient, int64_t width,
                   const uint32_t* order, const uint32_t* starts,
                   const std::vector<SumOutput>& outputs, int threads);

}  // namespace muxtable
