#include <limits>

#include "barrier.h"
#include "bind.h"
#include "memory.h"

namespace muxtable {
namespace {

using Table = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Table allocate(int64_t rows, int64_t width) {
  require(rows >= 0, "rows is " + std::to_string(rows) + ", expected 0 or more");
  require(width >= 1 && width <= 1024, "width is " + std::to_string(width) + ", expected 1 to 1024");
  const int64_t stride = row_stride(width);
  if (rows > std::numeric_limits<int64_t>::max() / 8 / stride) throw std::bad_alloc();
  auto* const mapping =
      new Mapping(map_zeroed(static_cast<uint64_t>(rows * stride) * sizeof(float)));
  nb::capsule owner(mapping, [](void* p) noexcept {
    unmap(*static_cast<Mapping*>(p));
    delete static_cast<Mapping*>(p);
  });
  return {static_cast<float*>(mapping->base),
          {static_cast<size_t>(rows), static_cast<size_t>(width)},
          owner,
          {stride, 1}};
}

void fill_uniform_array(const Matrix<float>& table, uint64_t key, float scale, uint64_t first_row,
                        int threads) {
  const int64_t stride = matrix_stride(table, "table");
  nb::gil_scoped_release release;
  fill_uniform(table.data(), stride, length(table, 0), length(table, 1), key, scale, first_row,
               checked_threads(threads));
}

uint32_t* checked_counter(const Vector<uint32_t>& arrivals) {
  require_length(length(arrivals), 1, "arrivals");
  return arrivals.data();
}

void arrive_array(const Vector<uint32_t>& arrivals, uint32_t target) {
  arrive(checked_counter(arrivals), target);
}

bool wait_for_array(const Vector<uint32_t>& arrivals, uint32_t target, int64_t spins,
                    int64_t timeout_us) {
  const uint32_t* const counter = checked_counter(arrivals);
  nb::gil_scoped_release release;
  return wait_for(counter, target, spins, timeout_us);
}

}  // namespace

void bind_memory(nb::module_& module) {
  using namespace nb::literals;
  module.def("allocate", &allocate, "rows"_a, "width"_a);
  module.def("fill_uniform", &fill_uniform_array, "table"_a.noconvert(), "key"_a, "scale"_a,
             "first_row"_a, "threads"_a);
  module.def("tune_allocator", &tune_allocator);
  module.def("arrive", &arrive_array, "arrivals"_a.noconvert(), "target"_a);
  module.def("wait_for", &wait_for_array, "arrivals"_a.noconvert(), "target"_a, "spins"_a,
             "timeout_us"_a);
}

}  // namespace muxtable
