// Rows to vectors for a whole batch.
#pragma once

#include "loops.h"

namespace muxtable {

// The first position among `count` x `n` row numbers outside [0, table_rows), or -1.
struct RowMatrix {
  const int64_t* rows;
  int64_t stride;
  int64_t count;
  int64_t n;
};
int64_t first_outside(const RowMatrix& rows, int64_t table_rows, int threads);

void gather(GatherTask task, int threads);
void gather_bags(const BagTask& task, int64_t num_samples, int threads);

}  // namespace muxtable
