#include "bind.h"
#include "order.h"

namespace muxtable {
namespace {

nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>> permutation_array(int64_t n, uint64_t key) {
  require(n >= 0 && n <= (int64_t{1} << 32), "n is " + std::to_string(n) + ", expected 0 to 2^32");
  auto out = new_vector<uint32_t>(n);
  {
    nb::gil_scoped_release release;
    permutation(key, n, out.data());
  }
  return out;
}

// The columns come as bytes of one item size: the wrapper made these views of any item type.
template <typename Item>
void permute_column(const Vector<const Item>& column, const Vector<const uint32_t>& order,
                    const Vector<Item>& out) {
  const int64_t n = length(order);
  require_length(length(out), n, "out");
  const uint64_t size = column.size();
  bool inside;
  {
    nb::gil_scoped_release release;
    uint32_t most = 0;
    for (int64_t i = 0; i < n; ++i) most = order.data()[i] > most ? order.data()[i] : most;
    inside = n == 0 || most < size;
    if (inside) permute(column.data(), sizeof(Item), order.data(), n, out.data());
  }
  if (!inside)
    throw std::out_of_range("permutation leaves the " + std::to_string(size) +
                            " rows of the column");
}

}  // namespace

void bind_order(nb::module_& module) {
  using namespace nb::literals;
  module.def("permutation", &permutation_array, "n"_a, "key"_a);
  module.def("permute_column", &permute_column<uint8_t>, "column"_a.noconvert(),
             "order"_a.noconvert(), "out"_a.noconvert());
  module.def("permute_column", &permute_column<uint32_t>, "column"_a.noconvert(),
             "order"_a.noconvert(), "out"_a.noconvert());
  module.def("permute_column", &permute_column<uint64_t>, "column"_a.noconvert(),
             "order"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace muxtable
