// One optimizer step over everything a batch looked up, each touched row updated once.
#pragma once

#include <cstdint>
#include <vector>

#include "loops.h"

namespace muxtable {

struct BagRows {
  const int64_t* rows;  // [num_lookups, row_stride]
  int64_t row_stride;
  int64_t num_lookups;
  const int64_t* offsets;  // [samples + 1], checked by the caller
  bool mean;
  int64_t column;
};

struct BatchRows {
  int64_t num_samples;
  const int64_t* rows;  // [num_lookups, row_stride]
  int64_t row_stride;
  int64_t num_lookups;
  const int64_t* columns;
  std::vector<BagRows> bags;
  int64_t gradient_stride;
};

// Applies the step and returns the number of distinct rows. All rows are inside the table.
int64_t update(const UpdateTask& task, const BatchRows& batch, int64_t table_rows, int threads);

}  // namespace muxtable
