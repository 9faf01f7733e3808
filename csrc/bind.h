// What the binding files share: dtype codes, and tensors described by flat tuples of numbers.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "matrix.h"
#include "metric.h"
#include "scalar.h"

namespace bimt {
namespace {

namespace py = pybind11;

// Calls f with a zero of the dtype that has that code in bimt_fast/kernels/cpu.py.
template <class F>
auto with_dtype(int dtype, F f) {
  if (dtype == 0) return f(float());
  if (dtype == 1) return f(double());
  throw py::value_error("no dtype has the code " + std::to_string(dtype));
}

// The same for the dtypes in which weights may be stored.
template <class F>
auto with_storage(int dtype, F f) {
  if (dtype == 2) return f(BFloat16());
  if (dtype == 3) return f(Float16());
  return with_dtype(dtype, f);
}

void check_metric(int metric) {
  if (metric < 0 || metric >= kMetricCount) throw py::value_error("no metric has the code " + std::to_string(metric));
}

// Reads the items of a flat tuple one after another; much faster than converting it as a whole.
class Fields {
 public:
  explicit Fields(py::handle tuple) : tuple_(tuple.ptr()) {
    if (!PyTuple_Check(tuple_)) throw py::type_error("a tensor must be described by a tuple");
  }

  int64_t integer() {
    const long long value = PyLong_AsLongLong(item());
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  }

  double real() {
    const double value = PyFloat_AsDouble(item());
    if (value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  }

  template <class T>
  T* address() {
    return reinterpret_cast<T*>(static_cast<intptr_t>(integer()));
  }

  // address, rows, columns, row stride, column stride
  template <class T>
  Matrix<T> matrix() {
    T* const data = address<T>();
    const int64_t rows = integer(), cols = integer(), row_stride = integer(), col_stride = integer();
    // The stride of an axis of length one means nothing; 1 is what the fast paths look for.
    return {data, rows, cols, rows < 2 ? 1 : row_stride, cols < 2 ? 1 : col_stride};
  }

 private:
  PyObject* item() {
    if (next_ >= PyTuple_GET_SIZE(tuple_)) throw py::value_error("the description of a tensor is too short");
    return PyTuple_GET_ITEM(tuple_, next_++);
  }

  PyObject* const tuple_;
  Py_ssize_t next_ = 0;
};

template <class T>
T* pointer(intptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace
}  // namespace bimt
