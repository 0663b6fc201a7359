#include <optional>
#include <vector>

#include <nanobind/stl/optional.h>

#include "bind.h"
#include "dispatch.h"
#include "hashing.h"

namespace muxtable {
namespace {

using Keys = nb::ndarray<nb::numpy, uint64_t, nb::ndim<1>>;

Keys mix64_array(const Vector<const uint64_t>& x) {
  Keys out = new_vector<uint64_t>(length(x));
  {
    nb::gil_scoped_release release;
    loops().mix(x.data(), out.data(), length(x));
  }
  return out;
}

uint64_t xxh64_bytes(const nb::bytes& data, uint64_t seed) {
  return xxh64(static_cast<const uint8_t*>(data.data()), data.size(), seed);
}

template <typename Offset>
Keys hash_string_array(const Vector<const Offset>& offsets, const Vector<const uint8_t>& data,
                       uint64_t seed) {
  require(length(offsets) >= 1, "offsets is empty, expected one more than there are strings");
  const int64_t n = length(offsets) - 1;
  Keys out = new_vector<uint64_t>(n);
  bool right;
  {
    nb::gil_scoped_release release;
    right = hash_strings(offsets.data(), n, data.data(), data.size(), seed, out.data());
  }
  require(right, "offsets fall or leave the " + std::to_string(data.size()) + " bytes of data");
  return out;
}

void combine_keys(const Vector<uint64_t>& acc, const Vector<const uint64_t>& keys,
                  uint64_t increment) {
  require_length(length(keys), length(acc), "keys");
  nb::gil_scoped_release release;
  loops().combine(acc.data(), keys.data(), increment, length(acc));
}

void hash_rows_array(const Matrix<const uint64_t>& keys,
                     const std::optional<Matrix<const uint8_t>>& nulls,
                     const Vector<const int32_t>& feature, const Vector<const uint64_t>& salts,
                     const Vector<const uint64_t>& null_salts, const Vector<const int64_t>& bases,
                     const Vector<const int64_t>& sizes, const Matrix<int64_t>& out, int threads) {
  const int64_t features = length(keys, 0), n = length(keys, 1), lookups = length(feature);
  RowHash task{};
  task.keys = keys.data();
  task.key_stride = matrix_stride(keys, "keys");
  if (nulls) {
    require_length(length(*nulls, 0), features, "nulls");
    require_length(length(*nulls, 1), n, "the inner axis of nulls");
    task.nulls = nulls->data();
    task.null_stride = matrix_stride(*nulls, "nulls");
  }
  require_length(length(salts), lookups, "salts");
  require_length(length(null_salts), lookups, "null_salts");
  require_length(length(bases), lookups, "bases");
  require_length(length(sizes), lookups, "sizes");
  require_length(length(out, 0), lookups, "out");
  require_length(length(out, 1), n, "the inner axis of out");
  std::vector<LookupHash> hashes(static_cast<size_t>(lookups));
  for (int64_t l = 0; l < lookups; ++l) {
    const int64_t f = feature.data()[l], base = bases.data()[l], size = sizes.data()[l];
    const std::string at = "[" + std::to_string(l) + "] is ";
    if (f < 0 || f >= features)
      throw std::out_of_range("feature" + at + std::to_string(f) + ", keys has " +
                              std::to_string(features));
    require(base >= 0, "bases" + at + std::to_string(base) + ", expected 0 or more");
    require(size >= 1 && size <= INT64_MAX - base,
            "sizes" + at + std::to_string(size) + ", expected 1 or more and base + size in int64");
    hashes[static_cast<size_t>(l)] = {salts.data()[l], null_salts.data()[l], base,
                                      static_cast<uint64_t>(size)};
  }
  task.n = n;
  task.feature = feature.data();
  task.lookups = hashes.data();
  task.num_lookups = lookups;
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  nb::gil_scoped_release release;
  hash_rows(task, checked_threads(threads));
}

void exact_rows_array(const Vector<const uint64_t>& keys,
                      const std::optional<Vector<const uint8_t>>& nulls,
                      const Vector<const uint64_t>& vocabulary, int64_t base, int64_t num_lookups,
                      const Matrix<int64_t>& out) {
  const int64_t n = length(keys), size = length(vocabulary);
  if (nulls) require_length(length(*nulls), n, "nulls");
  require(num_lookups >= 1, "num_lookups is " + std::to_string(num_lookups) + ", expected 1 or more");
  require(base >= 0 && base <= INT64_MAX / 2 && num_lookups <= INT64_MAX / 2 / (size + 2),
          "base " + std::to_string(base) + " and " + std::to_string(num_lookups) +
              " lookups leave int64");
  require_length(length(out, 0), num_lookups, "out");
  require_length(length(out, 1), n, "the inner axis of out");
  const ExactRows task{keys.data(), nulls ? nulls->data() : nullptr, n,          vocabulary.data(),
                       size,        base,                            num_lookups, out.data(),
                       matrix_stride(out, "out")};
  nb::gil_scoped_release release;
  exact_rows(task);
}

}  // namespace

void bind_hashing(nb::module_& module) {
  using namespace nb::literals;
  module.def("mix64", &mix64_array, "x"_a.noconvert());
  module.def("xxh64", &xxh64_bytes, "data"_a, "seed"_a);
  module.def("hash_strings", &hash_string_array<int32_t>, "offsets"_a.noconvert(),
             "data"_a.noconvert(), "seed"_a);
  module.def("hash_strings", &hash_string_array<int64_t>, "offsets"_a.noconvert(),
             "data"_a.noconvert(), "seed"_a);
  module.def("combine_keys", &combine_keys, "acc"_a.noconvert(), "keys"_a.noconvert(),
             "increment"_a);
  module.def("hash_rows", &hash_rows_array, "keys"_a.noconvert(), "nulls"_a.noconvert().none(),
             "feature"_a.noconvert(), "salts"_a.noconvert(), "null_salts"_a.noconvert(),
             "bases"_a.noconvert(), "sizes"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
  module.def("exact_rows", &exact_rows_array, "keys"_a.noconvert(), "nulls"_a.noconvert().none(),
             "vocabulary"_a.noconvert(), "base"_a, "num_lookups"_a, "out"_a.noconvert());
}

}  // namespace muxtable
