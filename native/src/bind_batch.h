// The checks of a batch's arrays that several bindings make.
#pragma once

#include <algorithm>
#include <vector>

#include "bind.h"
#include "gather.h"
#include "update.h"

namespace muxtable {

using Rows = Matrix<const int64_t>;
using Bags = nb::typed<nb::list, nb::typed<nb::tuple, nb::object, nb::ellipsis>>;

constexpr int64_t kMaxWidth = 1024;

inline void require_inside(const Rows& rows, int64_t stride, int64_t table_rows, int threads,
                    const std::string& name) {
  const RowMatrix matrix{rows.data(), stride, length(rows, 0), length(rows, 1)};
  const int64_t at = first_outside(matrix, table_rows, threads);
  if (at < 0) return;
  const int64_t l = at / matrix.n, i = at % matrix.n;
  throw std::out_of_range(name + "[" + std::to_string(l) + ", " + std::to_string(i) + "] is " +
                          std::to_string(matrix.rows[l * stride + i]) + ", the table has " +
                          std::to_string(table_rows) + " rows");
}

template <typename Array>
int64_t checked_table(const Array& table, const char* name) {
  const int64_t width = length(table, 1);
  require(width >= 1 && width <= kMaxWidth,
          std::string(name) + " has width " + std::to_string(width) + ", expected 1 to 1024");
  return matrix_stride(table, name);
}

inline void require_column(int64_t column, int64_t span, int64_t width, const std::string& name) {
  if (column < 0 || column > width - span)
    throw std::out_of_range(name + " is " + std::to_string(column) + ": " + std::to_string(span) +
                            " floats from there leave the " + std::to_string(width) +
                            " of a sample");
}

inline void require_columns(const Vector<const int64_t>& columns, int64_t width, int64_t out_width) {
  for (int64_t l = 0; l < length(columns); ++l)
    require_column(columns.data()[l], width, out_width, "columns[" + std::to_string(l) + "]");
}

// Offsets must start at 0 or later, never fall, and end inside the bag's rows.
inline void require_offsets(const int64_t* offsets, int64_t n, int64_t num_values) {
  bool right = offsets[0] >= 0 && offsets[n] <= num_values;
  for (int64_t i = 0; i < n; ++i) right &= offsets[i] <= offsets[i + 1];
  require(right, "offsets fall or leave the " + std::to_string(num_values) + " rows of the bag");
}

// The arrays of bags, kept alive while a kernel runs.
struct KeptBag {
  Rows rows;
  Vector<const int64_t> offsets;
};
using KeptBags = std::vector<KeptBag>;

// Adds (rows, offsets, mean, column) tuples to the batch, whose number of samples is known.
inline KeptBags cast_bags(const Bags& bags, int64_t width, int64_t out_width, BatchRows& batch) {
  KeptBags kept;
  for (const nb::handle item : bags) {
    const auto bag = nb::cast<nb::tuple>(item, false);
    require(bag.size() == 4, "a bag is (rows, offsets, mean, column)");
    kept.push_back({nb::cast<Rows>(bag[0], false), nb::cast<Vector<const int64_t>>(bag[1], false)});
    const Rows& rows = kept.back().rows;
    const Vector<const int64_t>& offsets = kept.back().offsets;
    const int64_t column = nb::cast<int64_t>(bag[3], false);
    require_length(length(offsets), batch.num_samples + 1, "offsets");
    require_column(column, length(rows, 0) * width, out_width, "column");
    batch.bags.push_back({rows.data(), matrix_stride(rows, "rows"), length(rows, 0),
                          offsets.data(), nb::cast<bool>(bag[2], false), column});
  }
  return kept;
}

// The univalent lookups of a batch and the gradient of their vectors.
inline BatchRows cast_batch(const Rows& rows, const Vector<const int64_t>& columns,
                            const Matrix<const float>& grad, int64_t width) {
  BatchRows batch{};
  batch.num_samples = length(grad, 0);
  batch.rows = rows.data();
  batch.row_stride = matrix_stride(rows, "rows");
  batch.num_lookups = length(rows, 0);
  batch.columns = columns.data();
  batch.gradient_stride = matrix_stride(grad, "grad");
  require(batch.num_samples <= (int64_t{1} << kScaledBit) / std::max<int64_t>(1, batch.gradient_stride),
          "grad has more than 2^39 floats: cut the batch");
  require_length(length(columns), batch.num_lookups, "columns");
  if (batch.num_lookups > 0) require_length(length(rows, 1), batch.num_samples, "the inner axis of rows");
  require_columns(columns, width, length(grad, 1));
  return batch;
}

}  // namespace muxtable
