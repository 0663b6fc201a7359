// Which instruction set runs: the best one of this processor, or the one a test asked for.
#pragma once

#include <string>

#include "loops.h"

namespace muxtable {

const Loops& loops();
std::string instruction_set();
// Throws std::invalid_argument for a name that is unknown or that this processor cannot run.
void choose(const std::string& name);

}  // namespace muxtable
