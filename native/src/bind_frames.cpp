#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bind.h"
#include "dispatch.h"
#include "requests.h"

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

// The ids of a request, where they lie in it.
struct Ids {
  nb::bytes message;
  std::vector<SentIds> columns;
};

nb::object take_ids(const nb::bytes& message) {
  std::string rest;
  auto ids = std::make_unique<Ids>(Ids{message, {}});
  if (!cut_ids(reinterpret_cast<const uint8_t*>(message.c_str()), message.size(), rest,
               ids->columns))
    return nb::none();
  return nb::make_tuple(nb::bytes(rest.data(), rest.size()),
                        nb::cast(ids.release(), nb::rv_policy::take_ownership));
}

// Calls of fewer rows keep the GIL: they end sooner than it would come back.
constexpr int64_t kKeepRows = 2048;
constexpr size_t kAlignment = 16;
constexpr char kFeatureTag = 2 << 3 | 2, kCountTag = 1 << 3, kLookupsTag = 2 << 3;
constexpr char kPaddingTag = 6 << 3 | 2, kRowsTag = 15 << 3 | 2;

// Ids of hashed features to a LookupReply with coded rows, in one call.
class PlainLookup {
 public:
  using Table = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;

  PlainLookup(const Vector<const int32_t>& columns, const Vector<const int32_t>& num_lookups,
              const Vector<const uint64_t>& salts, const Vector<const int64_t>& bases,
              const Vector<const int64_t>& sizes, const Table& table, const nb::bytes& tail,
              int64_t most_rows, int64_t most_bytes)
      : table_(table),
        stride_(matrix_stride(table, "table")),
        row_bytes_(length(table, 1)),
        tail_(tail.c_str(), tail.size()),
        most_rows_(most_rows),
        most_bytes_(most_bytes) {
    require(row_bytes_ >= 1, "table has rows of 0 bytes");
    require_length(length(num_lookups), length(columns), "num_lookups");
    int64_t total = 0;
    for (int64_t f = 0; f < length(num_lookups); ++f) {
      require(num_lookups.data()[f] >= 1, "a feature has no lookups");
      require(columns.data()[f] >= 0, "a feature has no column");
      features_.push_back({columns.data()[f], num_lookups.data()[f]});
      num_columns_ = std::max<int64_t>(num_columns_, columns.data()[f] + 1);
      total += num_lookups.data()[f];
    }
    require_length(length(salts), total, "salts");
    require_length(length(bases), total, "bases");
    require_length(length(sizes), total, "sizes");
    for (int64_t l = 0; l < total; ++l) {
      const int64_t base = bases.data()[l], size = sizes.data()[l];
      require(base >= 0 && size >= 1 && size <= INT64_MAX - base, "a region is not in int64");
      if (base + size > length(table, 0))
        throw std::out_of_range("rows up to " + std::to_string(base + size) + ", table has " +
                                std::to_string(length(table, 0)));
      lookups_.push_back({salts.data()[l], 0, base, static_cast<uint64_t>(size)});
    }
  }

  nb::object answer(const nb::bytes& stamp, const Ids& ids) const {
    require_length(static_cast<int64_t>(ids.columns.size()), num_columns_, "ids");
    int64_t total = 0;
    for (const Feature& each : features_) {
      const int64_t n = ids.columns[static_cast<size_t>(each.column)].n;
      if (n > (most_rows_ - total) / each.num_lookups) return nb::none();
      total += n * each.num_lookups;
    }
    if (total == 0 || total > most_bytes_ / row_bytes_) return nb::none();
    const std::string head = head_of(stamp, ids, total);
    nb::object frame = new_frame(nb::bytes(head.data(), head.size()), total * row_bytes_);
    uint8_t* const out = body_of(frame, head.size());
    if (total < kKeepRows) {
      write_rows(ids, total, out);
    } else {
      nb::gil_scoped_release release;
      write_rows(ids, total, out);
    }
    return frame;
  }

 private:
  struct Feature {
    int64_t column;
    int64_t num_lookups;
  };

  // What protobuf writes before the rows; serving/frame.py draws it.
  std::string head_of(const nb::bytes& stamp, const Ids& ids, int64_t total) const {
    std::string head(stamp.c_str(), stamp.size()), feature;
    for (const Feature& each : features_) {
      feature.clear();
      if (const int64_t n = ids.columns[static_cast<size_t>(each.column)].n) {
        feature.push_back(kCountTag);
        add_varint(feature, static_cast<uint64_t>(n));
      }
      feature.push_back(kLookupsTag);
      add_varint(feature, static_cast<uint64_t>(each.num_lookups));
      head.push_back(kFeatureTag);
      add_varint(head, feature.size());
      head += feature;
    }
    head += tail_;
    std::string size{kRowsTag};
    add_varint(size, static_cast<uint64_t>(total * row_bytes_));
    if (const size_t gap = -(head.size() + size.size()) % kAlignment) {
      // A padding field takes two bytes for itself, and is not written where it is empty.
      const size_t zeros = gap > 2 ? gap - 2 : gap - 2 + kAlignment;
      head.push_back(kPaddingTag);
      head.push_back(static_cast<char>(zeros));
      head.append(zeros, '\0');
    }
    return head + size;
  }

  // Feature by feature, value by value, lookup by lookup. The loops are called as they are: the
  // functions around them start a team of threads, even of one, for each of many short pieces.
  void write_rows(const Ids& ids, int64_t total, uint8_t* out) const {
    const Loops& isa = loops();
    const std::unique_ptr<int64_t[]> rows(new int64_t[static_cast<size_t>(total)]);
    std::vector<uint64_t> keys;
    std::vector<int64_t> scratch;
    const LookupHash* lookups = lookups_.data();
    int64_t* next = rows.get();
    for (const Feature& each : features_) {
      const SentIds& sent = ids.columns[static_cast<size_t>(each.column)];
      const int64_t count = each.num_lookups, n = sent.n;
      // They lie anywhere in the message; the loops want numbers where numbers may lie.
      keys.resize(static_cast<size_t>(n));
      if (n > 0) std::memcpy(keys.data(), sent.data, static_cast<size_t>(n) * 8);
      if (count > 1) scratch.resize(static_cast<size_t>(count * n));
      int64_t* const found = count > 1 ? scratch.data() : next;
      for (int64_t k = 0; k < count; ++k)
        isa.hash(keys.data(), nullptr, lookups[k], found + k * n, n);
      if (count > 1)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t k = 0; k < count; ++k) next[i * count + k] = found[k * n + i];
      next += count * n;
      lookups += count;
    }
    CopyTask task{};
    task.raw = table_.data();
    task.raw_stride = stride_;
    task.row_bytes = row_bytes_;
    task.rows = rows.get();
    task.out = out;
    task.out_stride = row_bytes_;
    isa.codecs.copy_coded(task, 0, total);
  }

  Table table_;
  int64_t stride_, row_bytes_;
  std::string tail_;
  int64_t most_rows_, most_bytes_;
  int64_t num_columns_ = 0;
  std::vector<Feature> features_;
  std::vector<LookupHash> lookups_;
};

}  // namespace

void bind_frames(nb::module_& module) {
  using namespace nb::literals;
  module.def("reserve", &reserve, "head"_a, "size"_a,
             nb::sig("def reserve(head: bytes, size: int) -> tuple[bytes, NDArray[numpy.uint8]]"));
  nb::class_<Ids>(module, "Ids");
  module.def("take_ids", &take_ids, "request"_a,
             nb::sig("def take_ids(request: bytes) -> tuple[bytes, Ids] | None"));
  nb::class_<PlainLookup>(module, "PlainLookup")
      .def(nb::init<const Vector<const int32_t>&, const Vector<const int32_t>&,
                    const Vector<const uint64_t>&, const Vector<const int64_t>&,
                    const Vector<const int64_t>&, const PlainLookup::Table&, const nb::bytes&,
                    int64_t, int64_t>(),
           "columns"_a.noconvert(), "num_lookups"_a.noconvert(), "salts"_a.noconvert(),
           "bases"_a.noconvert(), "sizes"_a.noconvert(), "table"_a.noconvert(), "tail"_a,
           "most_rows"_a, "most_bytes"_a)
      .def("answer", &PlainLookup::answer, "stamp"_a, "ids"_a,
           nb::sig("def answer(self, stamp: bytes, ids: Ids) -> bytes | None"));
}

}  // namespace muxtable
