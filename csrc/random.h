// Random numbers that are the same on every machine: SplitMix64 (Steele, Lea and Flood 2014), one after another, or
// any of them by its number.
#pragma once

#include <cstdint>

#include "metric.h"

namespace bimt {

constexpr uint64_t kRandomStep = 0x9e3779b97f4a7c15;

BIMT_HD uint64_t mixed(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

BIMT_HD uint64_t next_random(uint64_t* state) { return mixed(*state += kRandomStep); }

// The number that next_random gives after so many others.
BIMT_HD uint64_t random_at(uint64_t seed, uint64_t counter) { return mixed(seed + (counter + 1) * kRandomStep); }

// Step i of a shuffle by Fisher and Yates takes one of the places 0 to i; permutations are numbered, and each is a
// sequence of n numbers of its own.
BIMT_HD uint32_t shuffle_place(uint64_t seed, uint64_t permutation, uint64_t n, uint64_t i) {
  return uint32_t((random_at(seed, permutation * n + i) >> 32) * (i + 1) >> 32);
}

}  // namespace bimt
