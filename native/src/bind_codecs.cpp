#include <nanobind/stl/optional.h>

#include <optional>

#include "bind.h"
#include "codecs.h"
#include "gather.h"

namespace muxtable {
namespace {

using Values = Matrix<float>;
using ConstValues = Matrix<const float>;
using Raw = Matrix<uint8_t>;
using ConstRaw = Matrix<const uint8_t>;
using Rows = Vector<const int64_t>;
using Codebook = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

int64_t checked_width(int64_t width, const char* name) {
  require(width >= 1 && width <= kMaxCodecWidth, std::string(name) + " has width " +
                                                     std::to_string(width) +
                                                     ", expected 1 to 1024");
  return width;
}

// Refuses coded rows of a number of bytes that rows of this width cannot have.
void require_coded(int kind, int64_t width, int64_t bytes, const char* name) {
  int64_t wanted = -1;
  switch (kind) {
    case kFloat32:
      wanted = 4 * width;
      break;
    case kFloat16:
    case kBfloat16:
      wanted = 2 * width;
      break;
    case kInt8:
      wanted = width + 8;
      break;
    case kInt4:
      wanted = (width + 1) / 2 + 4;
      break;
    case kInt2:
      wanted = (width + 3) / 4 + 4;
      break;
    case kFloat8:
      wanted = width + 4;
      break;
    case kBinary: {
      const int64_t planes = planes_of(width, bytes);
      if (planes >= 1 && planes <= kMaxPlanes) wanted = planes * (plane_bytes(width) + 1) + 1;
      break;
    }
    default:
      break;
  }
  require(bytes == wanted, std::string(name) + " has rows of " + std::to_string(bytes) +
                               " bytes, which is no row of width " + std::to_string(width) +
                               " of this kind");
}

// A row of a codebook's parts: fills in what decoding needs of it.
void require_codebook(DecodeTask& task, const Codebook& codebook) {
  task.codebook = codebook.data();
  task.parts = length(codebook, 0);
  require_length(length(codebook, 1), kEntries, "the middle axis of codebook");
  require(task.parts >= 1 && task.parts * length(codebook, 2) == task.width,
          "codebook is not that of rows of width " + std::to_string(task.width));
  require_length(task.row_bytes, task.parts, "a coded row");
}

void require_rows(const Rows& rows, int64_t table_rows, int threads) {
  const int64_t n = length(rows);
  const int64_t at = first_outside({rows.data(), n, 1, n}, table_rows, threads);
  if (at >= 0)
    throw std::out_of_range("rows[" + std::to_string(at) + "] is " +
                            std::to_string(rows.data()[at]) + ", the table has " +
                            std::to_string(table_rows) + " rows");
}

int64_t first_unfit_array(const ConstValues& rows, float limit, int threads) {
  const int64_t stride = matrix_stride(rows, "rows");
  checked_threads(threads);
  nb::gil_scoped_release release;
  return first_unfit(rows.data(), stride, length(rows, 0), length(rows, 1), limit, threads);
}

void encode_array(int kind, const ConstValues& rows, const Raw& out, int threads) {
  EncodeTask task{};
  task.kind = static_cast<CodecKind>(kind);
  task.rows = rows.data();
  task.stride = matrix_stride(rows, "rows");
  task.width = checked_width(length(rows, 1), "rows");
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  task.row_bytes = length(out, 1);
  checked_threads(threads);
  require_length(length(out, 0), length(rows, 0), "out");
  require_coded(kind, task.width, task.row_bytes, "out");
  nb::gil_scoped_release release;
  encode_coded(task, length(rows, 0), threads);
}

void encode_pq_array(const Codebook& codebook, const ConstValues& rows, const Raw& out,
                     int threads) {
  EncodePqTask task{};
  task.rows = rows.data();
  task.stride = matrix_stride(rows, "rows");
  task.parts = length(codebook, 0);
  task.part_width = length(codebook, 2);
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  checked_threads(threads);
  require_length(length(codebook, 1), kEntries, "the middle axis of codebook");
  require_length(length(rows, 1), task.parts * task.part_width, "a row of rows");
  require_length(length(out, 0), length(rows, 0), "out");
  require_length(length(out, 1), task.parts, "a row of out");
  nb::gil_scoped_release release;
  encode_pq_coded(task, codebook.data(), length(rows, 0), threads);
}

void decode_array(int kind, const ConstRaw& raw, const std::optional<Rows>& rows,
                  const Values& out, int threads, const std::optional<Codebook>& codebook) {
  DecodeTask task{};
  task.kind = static_cast<CodecKind>(kind);
  task.raw = raw.data();
  task.raw_stride = matrix_stride(raw, "raw");
  task.raw_rows = length(raw, 0);
  task.row_bytes = length(raw, 1);
  task.width = checked_width(length(out, 1), "out");
  task.rows = rows ? rows->data() : nullptr;
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  checked_threads(threads);
  const int64_t n = rows ? length(*rows) : task.raw_rows;
  require_length(length(out, 0), n, "out");
  require((kind == kPq) == codebook.has_value(), "a codebook goes with pq, and with nothing else");
  if (codebook)
    require_codebook(task, *codebook);
  else
    require_coded(kind, task.width, task.row_bytes, "raw");
  nb::gil_scoped_release release;
  if (rows) require_rows(*rows, task.raw_rows, threads);
  decode_coded(task, n, threads);
}

void gather_raw_array(const ConstRaw& table, const Rows& rows, const Raw& out, int threads) {
  CopyTask task{};
  task.raw = table.data();
  task.raw_stride = matrix_stride(table, "table");
  task.row_bytes = length(table, 1);
  task.rows = rows.data();
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  checked_threads(threads);
  require(task.row_bytes >= 1, "table has rows of 0 bytes");
  require_length(length(out, 0), length(rows), "out");
  require_length(length(out, 1), task.row_bytes, "a row of out");
  nb::gil_scoped_release release;
  require_rows(rows, length(table, 0), threads);
  copy_coded(task, length(rows), threads);
}

void affine_array(const ConstValues& rows, const ConstValues& weights,
                  const Vector<const float>& offset, const Values& out, int threads) {
  AffineTask task{};
  task.rows = rows.data();
  task.stride = matrix_stride(rows, "rows");
  task.terms = length(rows, 1);
  task.weights = weights.data();
  task.weight_stride = matrix_stride(weights, "weights");
  task.offset = offset.data();
  task.out = out.data();
  task.out_stride = matrix_stride(out, "out");
  task.width = length(out, 1);
  checked_threads(threads);
  require_length(length(weights, 0), task.terms, "weights");
  require_length(length(weights, 1), task.width, "a row of weights");
  require_length(length(offset), task.width, "offset");
  require_length(length(out, 0), length(rows, 0), "out");
  nb::gil_scoped_release release;
  affine(task, length(rows, 0), threads);
}

}  // namespace

void bind_codecs(nb::module_& module) {
  using namespace nb::literals;
  module.def("first_unfit", &first_unfit_array, "rows"_a.noconvert(), "limit"_a, "threads"_a);
  module.def("encode", &encode_array, "kind"_a, "rows"_a.noconvert(), "out"_a.noconvert(),
             "threads"_a);
  module.def("encode_pq", &encode_pq_array, "codebook"_a.noconvert(), "rows"_a.noconvert(),
             "out"_a.noconvert(), "threads"_a);
  module.def("decode", &decode_array, "kind"_a, "raw"_a.noconvert(), "rows"_a.noconvert().none(),
             "out"_a.noconvert(), "threads"_a, "codebook"_a.noconvert().none());
  module.def("gather_raw", &gather_raw_array, "table"_a.noconvert(), "rows"_a.noconvert(),
             "out"_a.noconvert(), "threads"_a);
  module.def("affine", &affine_array, "rows"_a.noconvert(), "weights"_a.noconvert(),
             "offset"_a.noconvert(), "out"_a.noconvert(), "threads"_a);
}

}  // namespace muxtable
