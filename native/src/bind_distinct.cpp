#include <algorithm>
#include <vector>

#include <nanobind/stl/vector.h>

#include "bind.h"
#include "bind_batch.h"
#include "distinct.h"

namespace muxtable {
namespace {

using RowMatrices = nb::typed<nb::list, nb::object>;
using Arrays = nb::typed<nb::tuple, nb::object, nb::ellipsis>;
using Outputs = nb::typed<nb::list, nb::object>;

// Returns (rows, places, order, starts, counts), the first and the fourth longer than needed.
Arrays distinct_arrays(const RowMatrices& matrices, const std::vector<int64_t>& bounds) {
  require(bounds.size() >= 2 && bounds.front() == 0 && std::is_sorted(bounds.begin(), bounds.end()),
          "bounds must start at 0 and never fall");
  const int64_t table_rows = bounds.back();
  std::vector<Rows> kept;
  std::vector<RowRun> runs;
  int64_t num_entries = 0;
  for (const nb::handle item : matrices) {
    kept.push_back(nb::cast<Rows>(item, false));
    const Rows& rows = kept.back();
    const int64_t stride = matrix_stride(rows, "rows"), n = length(rows, 1);
    for (int64_t l = 0; l < length(rows, 0); ++l) runs.push_back({rows.data() + l * stride, n});
    num_entries += length(rows, 0) * n;
  }
  auto rows = new_vector<int64_t>(num_entries);
  auto places = new_vector<int64_t>(num_entries);
  auto order = new_vector<uint32_t>(num_entries);
  auto starts = new_vector<uint32_t>(num_entries + 1);
  auto counts = new_vector<int64_t>(static_cast<int64_t>(bounds.size()) - 1);
  const Distinct out{rows.data(), places.data(), order.data(), starts.data(), counts.data()};
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i < kept.size(); ++i)
      require_inside(kept[i], matrix_stride(kept[i], "rows"), table_rows, 1,
                     "rows[" + std::to_string(i) + "]");
    find_distinct(runs, num_entries, bounds, out);
  }
  return nb::borrow<Arrays>(nb::make_tuple(rows, places, order, starts, counts));
}

// Every distinct row has entries, and all of them are there.
void require_chains(const Vector<const uint32_t>& order, const Vector<const uint32_t>& starts) {
  const uint32_t *const o = order.data(), *const s = starts.data();
  const int64_t num_entries = length(order), num_rows = length(starts) - 1;
  bool right = s[0] == 0 && s[num_rows] == num_entries;
  for (int64_t u = 0; u < num_rows; ++u) right &= s[u] < s[u + 1];
  uint32_t largest = 0;
  for (int64_t k = 0; k < num_entries; ++k) largest = std::max(largest, o[k]);
  require(right && (num_entries == 0 || largest < num_entries),
          "order and starts are not those of distinct rows");
}

void sum_gradients_arrays(const Vector<const uint32_t>& order, const Vector<const uint32_t>& starts,
                          const Rows& rows, const Vector<const int64_t>& columns, const Bags& bags,
                          const Matrix<const float>& grad, const Outputs& outs, int64_t width,
                          int threads) {
  checked_threads(threads);
  require(width >= 1 && width <= kMaxWidth,
          "width is " + std::to_string(width) + ", expected 1 to 1024");
  BatchRows batch = cast_batch(rows, columns, grad, width);
  const KeptBags kept = cast_bags(bags, width, length(grad, 1), batch);
  int64_t num_entries = batch.num_lookups * batch.num_samples;
  for (const KeptBag& bag : kept) {
    const int64_t values = length(bag.rows, 1);
    const int64_t* const offsets = bag.offsets.data();
    require_offsets(offsets, batch.num_samples, values);
    require(offsets[0] == 0 && offsets[batch.num_samples] == values,
            "offsets leave rows of the bag out");
    num_entries += length(bag.rows, 0) * values;
  }
  require_length(length(order), num_entries, "order");

  std::vector<SumOutput> outputs;
  std::vector<Matrix<float>> kept_outputs;
  int64_t num_rows = 0;
  for (const nb::handle item : outs) {
    kept_outputs.push_back(nb::cast<Matrix<float>>(item, false));
    const Matrix<float>& out = kept_outputs.back();
    require_length(length(out, 1), width, "a row of outs");
    outputs.push_back({out.data(), matrix_stride(out, "outs"), length(out, 0)});
    num_rows += length(out, 0);
  }
  require_length(length(starts), num_rows + 1, "starts");
  nb::gil_scoped_release release;
  require_chains(order, starts);
  sum_gradients(batch, grad.data(), width, order.data(), starts.data(), outputs, threads);
}

}  // namespace

void bind_distinct(nb::module_& module) {
  using namespace nb::literals;
  module.def("distinct", &distinct_arrays, "matrices"_a, "bounds"_a);
  module.def("sum_gradients", &sum_gradients_arrays, "order"_a.noconvert(),
             "starts"_a.noconvert(), "rows"_a.noconvert(), "columns"_a.noconvert(), "bags"_a,
             "grad"_a.noconvert(), "outs"_a, "width"_a, "threads"_a);
}

}  // namespace muxtable
