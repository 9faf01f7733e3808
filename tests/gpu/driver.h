// What the parts of the driver share: random numbers, arrays behind whose ends sanitizers watch, and comparison.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace driver {

inline std::mt19937_64& random_numbers() {
  static std::mt19937_64 generator(20231122);
  return generator;
}

// A heap block of exactly its size, for the address sanitizer; vectors may keep more.
template <class T>
class Array {
 public:
  explicit Array(int64_t size, double low = 0, double high = 0) : size_(size), data_(new T[size]) {
    std::uniform_real_distribution<double> number(low, high);
    for (int64_t i = 0; i < size; ++i) data_[i] = low == high ? T(low) : T(number(random_numbers()));
  }
  T* get() const { return data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  const int64_t size_;
  const std::unique_ptr<T[]> data_;
};

template <class T>
bimt::Matrix<T> rows_of(const Array<T>& array, int64_t rows, int64_t cols) {
  return {array.get(), rows, cols, cols, 1};
}

template <class T>
bimt::Matrix<T> columns_of(const Array<T>& array, int64_t rows, int64_t cols) {
  return {array.get(), rows, cols, 1, rows};
}

inline int wrong = 0;

// Relative to the largest magnitude that is expected.
inline void expect_near(const char* what, double got, double expected, double scale) {
  if (std::abs(got - expected) <= 1e-5 * scale) return;
  std::printf("WRONG %s: %.9g, expected %.9g\n", what, got, expected);
  ++wrong;
}

inline const bimt::gpu::Queue kQueue = {0, nullptr};

void check_penalty();
void check_placement();
void check_swap_search();
void check_walks();

}  // namespace driver
