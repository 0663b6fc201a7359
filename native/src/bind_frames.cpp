#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "bind.h"
#include "dispatch.h"

namespace muxtable {
namespace {

using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;

// A bytes object that begins with `head` and that nobody else has seen yet.
nb::object new_frame(const nb::bytes& head, int64_t size) {
  PyObject* const raw =
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(head.size()) + size);
  if (raw == nullptr) nb::raise_python_error();
  std::memcpy(PyBytes_AS_STRING(raw), head.c_str(), head.size());
  return nb::steal(raw);
}

uint8_t* body_of(const nb::object& frame, size_t head_size) {
  return reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(frame.ptr())) + head_size;
}

nb::tuple reserve(const nb::bytes& head, int64_t size) {
  require(size >= 0, "size is " + std::to_string(size) + ", expected 0 or more");
  nb::object frame = new_frame(head, size);
  Bytes body(body_of(frame, head.size()), {static_cast<size_t>(size)}, frame);
  return nb::make_tuple(frame, body);
}

// Ids of hashed features to coded rows behind a head, in one call.
class RawLookup {
 public:
  RawLookup(const Vector<const int32_t>& num_lookups, const Vector<const uint64_t>& salts,
            const Vector<const int64_t>& bases, const Vector<const int64_t>& sizes) {
    int64_t total = 0;
    for (int64_t f = 0; f < length(num_lookups); ++f) {
      require(num_lookups.data()[f] >= 1, "a feature has no lookups");
      counts_.push_back(num_lookups.data()[f]);
      total += num_lookups.data()[f];
    }
    require_length(length(salts), total, "salts");
    require_length(length(bases), total, "bases");
    require_length(length(sizes), total, "sizes");
    for (int64_t l = 0; l < total; ++l) {
      const int64_t base = bases.data()[l], size = sizes.data()[l];
      require(base >= 0 && size >= 1 && size <= INT64_MAX - base, "a region is not in int64");
      lookups_.push_back({salts.data()[l], 0, base, static_cast<uint64_t>(size)});
      end_ = std::max(end_, base + size);
    }
  }

  nb::object answer(const nb::bytes& head, const nb::list& ids,
                    const nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>& table) const {
    require_length(static_cast<int64_t>(ids.size()), static_cast<int64_t>(counts_.size()), "ids");
    CopyTask task{};
    task.raw = table.data();
    task.raw_stride = matrix_stride(table, "table");
    task.row_bytes = length(table, 1);
    require(task.row_bytes >= 1, "table has rows of 0 bytes");
    if (end_ > length(table, 0))
      throw std::out_of_range("rows up to " + std::to_string(end_) + ", table has " +
                              std::to_string(length(table, 0)));
    std::vector<const uint64_t*> keys;
    int64_t n = -1;
    for (const nb::handle& each : ids) {
      require(PyBytes_Check(each.ptr()), "ids are no bytes");
      const int64_t size = PyBytes_GET_SIZE(each.ptr());
      require(size % 8 == 0 && (n < 0 || size == 8 * n), "ids are not of one length");
      n = size / 8;
      keys.push_back(reinterpret_cast<const uint64_t*>(PyBytes_AS_STRING(each.ptr())));
    }
    const int64_t total = n * static_cast<int64_t>(lookups_.size());
    nb::object frame = new_frame(head, total * task.row_bytes);
    task.out = body_of(frame, head.size());
    task.out_stride = task.row_bytes;
    nb::gil_scoped_release release;
    std::vector<int64_t> rows(static_cast<size_t>(total));
    find_rows(keys, n, rows.data());
    task.rows = rows.data();
    loops().codecs.copy_coded(task, 0, total);
    return frame;
  }

 private:
  // Feature by feature, value by value, lookup by lookup. The loops are called as they are: the
  // functions around them start a team of threads, even of one, for each of many short pieces.
  void find_rows(const std::vector<const uint64_t*>& keys, int64_t n, int64_t* out) const {
    const Loops& isa = loops();
    std::vector<int64_t> scratch;
    const LookupHash* lookups = lookups_.data();
    for (size_t f = 0; f < counts_.size(); ++f) {
      const int64_t count = counts_[f];
      if (count > 1) scratch.resize(static_cast<size_t>(count * n));
      int64_t* const found = count > 1 ? scratch.data() : out;
      for (int64_t k = 0; k < count; ++k) isa.hash(keys[f], nullptr, lookups[k], found + k * n, n);
      if (count > 1)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t k = 0; k < count; ++k) out[i * count + k] = found[k * n + i];
      out += count * n;
      lookups += count;
    }
  }

  std::vector<int64_t> counts_;
  std::vector<LookupHash> lookups_;
  int64_t end_ = 0;
};

}  // namespace

void bind_frames(nb::module_& module) {
  using namespace nb::literals;
  module.def("reserve", &reserve, "head"_a, "size"_a,
             nb::sig("def reserve(head: bytes, size: int) -> tuple[bytes, NDArray[numpy.uint8]]"));
  nb::class_<RawLookup>(module, "RawLookup")
      .def(nb::init<const Vector<const int32_t>&, const Vector<const uint64_t>&,
                    const Vector<const int64_t>&, const Vector<const int64_t>&>(),
           "num_lookups"_a.noconvert(), "salts"_a.noconvert(), "bases"_a.noconvert(),
           "sizes"_a.noconvert())
      .def("answer", &RawLookup::answer, "head"_a, "ids"_a, "table"_a.noconvert(),
           nb::sig("def answer(self, head: bytes, ids: list[bytes], table: NDArray[numpy.uint8]) "
                   "-> bytes"));
}

}  // namespace muxtable
