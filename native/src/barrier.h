// A meeting point of processes that share memory: a counter of arrivals.
#pragma once

#include <cstdint>

namespace muxtable {

// Counts this process in; wakes those that wait where it is the `target`-th arrival.
void arrive(uint32_t* arrivals, uint32_t target);

// Returns whether the arrivals reached `target` within the time. First looks `spins` times without
// giving the processor away. Counts wrap: a target may be at most 2^31 ahead.
bool wait_for(const uint32_t* arrivals, uint32_t target, int64_t spins, int64_t timeout_us);

}  // namespace muxtable
