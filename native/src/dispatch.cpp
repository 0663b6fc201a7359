#include "dispatch.h"

#include <atomic>
#include <stdexcept>

namespace muxtable {
namespace {

struct Choice {
  const char* name;
  const Loops* loops;
  bool (*runs_here)();
};

const Choice kChoices[] = {
#ifdef __x86_64__
    {"avx512", &avx512::loops, [] { return __builtin_cpu_supports("x86-64-v4") != 0; }},
    {"avx2", &avx2::loops, [] { return __builtin_cpu_supports("x86-64-v3") != 0; }},
#endif
    {"baseline", &baseline::loops, [] { return true; }},
};

const Choice* best() {
  for (const Choice& choice : kChoices)
    if (choice.runs_here()) return &choice;
  return nullptr;  // not reached: the last choice always runs
}

std::atomic<const Choice*> current{best()};

}  // namespace

const Loops& loops() { return *current.load(std::memory_order_relaxed)->loops; }

std::string instruction_set() { return current.load()->name; }

void choose(const std::string& name) {
  for (const Choice& choice : kChoices) {
    if (name != choice.name) continue;
    if (!choice.runs_here()) throw std::invalid_argument("this processor has no " + name);
    current = &choice;
    return;
  }
  throw std::invalid_argument("instruction set \"" + name + "\" is unknown here");
}

}  // namespace muxtable
