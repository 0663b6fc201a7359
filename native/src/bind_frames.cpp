#include <cstring>

#include "bind.h"

namespace muxtable {
namespace {

using Bytes = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;
using Frame = nb::typed<nb::tuple, nb::bytes, Bytes>;

// A bytes object nobody else has seen yet, and a view to write its end through.
Frame reserve(const nb::bytes& head, int64_t size) {
  require(size >= 0, "size is " + std::to_string(size) + ", expected 0 or more");
  const size_t head_size = head.size();
  PyObject* const raw =
      PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(head_size) + size);
  if (raw == nullptr) nb::raise_python_error();
  nb::object frame = nb::steal(raw);
  char* const data = PyBytes_AS_STRING(raw);
  std::memcpy(data, head.c_str(), head_size);
  Bytes body(data + head_size, {static_cast<size_t>(size)}, frame);
  return nb::borrow<Frame>(nb::make_tuple(frame, body));
}

}  // namespace

void bind_frames(nb::module_& module) {
  using namespace nb::literals;
  module.def("reserve", &reserve, "head"_a, "size"_a);
}

}  // namespace muxtable
