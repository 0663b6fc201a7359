#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "bind.h"
#include "bind_batch.h"
#include "gather.h"
#include "limit.h"
#include "update.h"

namespace muxtable {
namespace {

using Table = Matrix<float>;
using ConstTable = Matrix<const float>;
using States = nb::typed<nb::tuple, nb::object, nb::ellipsis>;

void gather_array(const ConstTable& table, const Rows& rows, const Vector<const int64_t>& columns,
                  const Table& out, int threads) {
  GatherTask task{};
  task.table = table.data();
  task.table_stride = checked_table(table, "table");
  task.width = length(table, 1);
  task.rows = rows.data();
  task.row_stride = matrix_stride(rows, "rows");
  task.num_lookups = length(rows, 0);
  task.num_samples = length(rows, 1);
  task.columns = columns.data();
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  checked_threads(threads);
  require_length(length(columns), task.num_lookups, "columns");
  require_length(length(out, 0), task.num_samples, "out");
  require_columns(columns, task.width, length(out, 1));
  nb::gil_scoped_release release;
  require_inside(rows, task.row_stride, length(table, 0), threads, "rows");
  gather(task, threads);
}

void gather_bags_array(const ConstTable& table, const Rows& rows,
                       const Vector<const int64_t>& offsets, bool mean, int64_t column,
                       const Table& out, int threads) {
  BagTask task{};
  task.table = table.data();
  task.table_stride = checked_table(table, "table");
  task.width = length(table, 1);
  task.rows = rows.data();
  task.row_stride = matrix_stride(rows, "rows");
  task.num_lookups = length(rows, 0);
  task.offsets = offsets.data();
  task.mean = mean;
  task.out_stride = matrix_stride(out, "out");
  checked_threads(threads);
  const int64_t num_samples = length(out, 0);
  require_length(length(offsets), num_samples + 1, "offsets");
  require_column(column, task.num_lookups * task.width, length(out, 1), "column");
  task.out = out.data() + column;
  nb::gil_scoped_release release;
  require_offsets(offsets.data(), num_samples, length(rows, 1));
  require_inside(rows, task.row_stride, length(table, 0), threads, "rows");
  gather_bags(task, num_samples, threads);
}

struct StepSize {
  float learning_rate, eps, beta1, beta2;
  int64_t step;
};

void check_state(UpdateTask& task, int index, const nb::handle& state, int64_t rows) {
  const std::string name = "states[" + std::to_string(index) + "]";
  if (task.optimizer == kRowwiseAdagrad) {
    const auto vector = nb::cast<Vector<float>>(state, false);
    require_length(length(vector), rows, name.c_str());
    task.state[index] = vector.data();
    task.state_stride[index] = 1;
    return;
  }
  const auto matrix = nb::cast<Table>(state, false);
  task.state_stride[index] = matrix_stride(matrix, name.c_str());
  require_length(length(matrix, 0), rows, name.c_str());
  require_length(length(matrix, 1), task.width, ("the inner axis of " + name).c_str());
  task.state[index] = matrix.data();
}

int64_t update_array(int optimizer, const Table& table, const States& states, const Rows& rows,
                     const Vector<const int64_t>& columns, const Bags& bags,
                     const ConstTable& grad, double learning_rate, double eps, double beta1,
                     double beta2, int64_t step, int threads) {
  UpdateTask task{};
  require(optimizer >= kRowwiseAdagrad && optimizer <= kSgd, "optimizer is unknown");
  task.optimizer = static_cast<Optimizer>(optimizer);
  task.table = table.data();
  task.table_stride = checked_table(table, "table");
  task.width = length(table, 1);
  checked_threads(threads);
  const int64_t table_rows = length(table, 0), out_width = length(grad, 1);
  const size_t wanted = task.optimizer == kSgd ? 0 : task.optimizer == kAdam ? 2 : 1;
  require_length(static_cast<int64_t>(states.size()), static_cast<int64_t>(wanted), "states");
  for (size_t i = 0; i < wanted; ++i)
    check_state(task, static_cast<int>(i), states[i], table_rows);

  task.learning_rate = static_cast<float>(learning_rate);
  task.eps = static_cast<float>(eps);
  task.beta1_rest = static_cast<float>(1 - beta1);
  task.beta2_rest = static_cast<float>(1 - beta2);
  if (task.optimizer == kAdam) {
    require(step >= 1, "step is " + std::to_string(step) + ", expected 1 or more");
    const double count = static_cast<double>(step);
    task.step_size = static_cast<float>(learning_rate * std::sqrt(1 - std::pow(beta2, count)) /
                                        (1 - std::pow(beta1, count)));
  }

  BatchRows batch = cast_batch(rows, columns, grad, task.width);
  task.gradients[0] = grad.data();
  const KeptBags kept = cast_bags(bags, task.width, out_width, batch);

  nb::gil_scoped_release release;
  require_inside(rows, batch.row_stride, table_rows, threads, "rows");
  for (size_t g = 0; g < kept.size(); ++g) {
    const std::string name = "bags[" + std::to_string(g) + "].rows";
    require_offsets(batch.bags[g].offsets, batch.num_samples, length(kept[g].rows, 1));
    require_inside(kept[g].rows, batch.bags[g].row_stride, table_rows, threads, name);
  }
  return update(task, batch, table_rows, threads);
}

// The rows a limit touches: as wide as the loops, inside the table.
int64_t checked_limit(const ConstTable& table, const Vector<const int64_t>& rows, int threads) {
  require_length(length(table, 1), 32, "a row of the table");
  checked_threads(threads);
  const int64_t stride = matrix_stride(table, "table");
  const RowMatrix matrix{rows.data(), length(rows), 1, length(rows)};
  if (first_outside(matrix, length(table, 0), threads) >= 0)
    throw std::out_of_range("rows leave the table");
  return stride;
}

void limit_copy_rows_array(const ConstTable& table, const Vector<const int64_t>& rows,
                           const Vector<float>& out, int threads) {
  const int64_t stride = checked_limit(table, rows, threads);
  require_length(length(out), 32 * length(rows), "out");
  nb::gil_scoped_release release;
  limit_copy_rows(table.data(), stride, rows.data(), length(rows), out.data(), threads);
}

void limit_change_rows_array(const Table& table, const Vector<const int64_t>& rows, int threads) {
  const int64_t stride = checked_limit(ConstTable(table), rows, threads);
  nb::gil_scoped_release release;
  limit_change_rows(table.data(), stride, rows.data(), length(rows), threads);
}

float limit_read_all_array(const Vector<const float>& data, int threads) {
  checked_threads(threads);
  nb::gil_scoped_release release;
  return limit_read_all(data.data(), length(data), threads);
}

}  // namespace

void bind_tables(nb::module_& module) {
  using namespace nb::literals;
  module.def("gather", &gather_array, "table"_a.noconvert(), "rows"_a.noconvert(),
             "columns"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
  module.def("gather_bags", &gather_bags_array, "table"_a.noconvert(), "rows"_a.noconvert(),
             "offsets"_a.noconvert(), "mean"_a, "column"_a, "out"_a.noconvert(), "threads"_a);
  module.def("update", &update_array, "optimizer"_a, "table"_a.noconvert(), "states"_a,
             "rows"_a.noconvert(), "columns"_a.noconvert(), "bags"_a, "grad"_a.noconvert(),
             "learning_rate"_a, "eps"_a, "beta1"_a, "beta2"_a, "step"_a, "threads"_a);
  module.def("limit_copy_rows", &limit_copy_rows_array, "table"_a.noconvert(),
             "rows"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
  module.def("limit_change_rows", &limit_change_rows_array, "table"_a.noconvert(),
             "rows"_a.noconvert(), "threads"_a);
  module.def("limit_read_all", &limit_read_all_array, "data"_a.noconvert(), "threads"_a);
}

}  // namespace muxtable
