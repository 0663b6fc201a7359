// The Python module native._native. Nothing here is meant to be called directly: the modules beside
// it (native/hashing.py, ...) are the interface, with documentation and defaults.

#include "bind.h"
#include "dispatch.h"

NB_MODULE(_native, module) {
  using namespace muxtable;
  module.def("instruction_set", &instruction_set);
  module.def("choose", &choose, nb::arg("name"));
  bind_hashing(module);
  bind_order(module);
  bind_memory(module);
  bind_tables(module);
  bind_distinct(module);
  bind_codecs(module);
  bind_frames(module);
}
