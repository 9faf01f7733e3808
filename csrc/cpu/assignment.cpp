#include "assignment.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace bimt {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kLongestPause = 64;

}  // namespace

template <class T>
Assigner<T>::Assigner(const Matrix<const T>& cost, const RowScans<T>& scans, const int64_t* start)
    : cost_(cost),
      n_(cost.rows),
      scans_(scans),
      free_rows_(n_),
      row_price_(n_),
      column_price_(n_),
      column_of_(n_, -1),
      row_of_(n_, -1),
      open_price_(n_),
      distance_(n_),
      before_(n_),
      root_of_(n_),
      reached_(n_),
      next_(n_),
      tried_(n_) {
  double largest = 0;
  for (int64_t i = 0; i < n_ && finite_; ++i) {
    const double in_row = scans_.magnitude(row(i), n_);
    finite_ = in_row < kInfinity;
    largest = std::max(largest, in_row);
  }
  if (!finite_) return;
  rounding_ = 2 * std::numeric_limits<double>::epsilon() * largest;
  visited_.reserve(n_);
  visited_at_.reserve(n_);
  price(start);
}

// Each row in turn lowers the price of its column at the start until no other column is cheaper: one pass of Bellman
// and Ford. Rows hold their cheapest column, where it is free.
template <class T>
void Assigner<T>::price(const int64_t* start) {
  int64_t at;
  for (int64_t i = 0; i < n_; ++i) {
    const double lowest = scans_.lowest(row(i), column_price_.data(), n_, &at);
    column_price_[start[i]] = row(i)[start[i]] - lowest;
  }
  for (int64_t i = 0; i < n_; ++i) {
    const int64_t home = start[i];
    row_price_[i] = scans_.lowest(row(i), column_price_.data(), n_, &at);
    if (row(i)[home] - column_price_[home] <= row_price_[i] && row_of_[home] < 0) at = home;
    if (row_of_[at] >= 0) continue;
    row_of_[at] = i;
    column_of_[i] = at;
    --free_rows_;
  }
}

template <class T>
void Assigner<T>::round() {
  grow();
  raise_prices();
  augment_trees();
  if (rounds_to_wait_-- > 0) return;
  const int64_t before = free_rows_;
  augment_ties();
  // A search costs up to as much as a round: seldom, where few entries are equal.
  pause_ = (before - free_rows_) * 8 < before ? std::min(2 * pause_, kLongestPause) : 1;
  rounds_to_wait_ = pause_ - 1;
}

template <class T>
void Assigner<T>::grow() {
  std::fill(distance_.begin(), distance_.end(), kInfinity);
  std::fill(reached_.begin(), reached_.end(), -1);
  open_price_ = column_price_;
  visited_.clear();
  visited_at_.clear();
  const auto relax = [&](int64_t i, double at) {
    return scans_.relax(row(i), open_price_.data(), n_, i, at - row_price_[i], distance_.data(), before_.data());
  };
  int64_t nearest = -1;
  for (int64_t i = 0; i < n_; ++i) {
    if (column_of_[i] >= 0) continue;
    root_of_[i] = i;
    nearest = relax(i, 0);
  }
  for (int64_t unreached = free_rows_; unreached > 0;) {
    const int64_t j = nearest, i = row_of_[j], root = root_of_[before_[j]];
    const double at = distance_[j];
    visited_.push_back(j);
    visited_at_.push_back(at);
    distance_[j] = kInfinity;
    open_price_[j] = -kInfinity;
    if (i >= 0) {
      root_of_[i] = root;
      nearest = relax(i, at);
    } else {
      if (reached_[root] < 0) reached_[root] = j;
      nearest = scans_.nearest(distance_.data(), n_);
      --unreached;
    }
  }
}

template <class T>
void Assigner<T>::raise_prices() {
  const double farthest = visited_at_.back();
  for (int64_t i = 0; i < n_; ++i) {
    if (column_of_[i] < 0) row_price_[i] += farthest;
  }
  for (size_t k = 0; k < visited_.size(); ++k) {
    const int64_t j = visited_[k];
    const double change = farthest - visited_at_[k];
    column_price_[j] -= change;
    if (row_of_[j] >= 0) row_price_[row_of_[j]] += change;
  }
}

template <class T>
void Assigner<T>::augment_trees() {
  for (int64_t root = 0; root < n_; ++root) {
    if (column_of_[root] >= 0 || reached_[root] < 0) continue;
    for (int64_t j = reached_[root], i = -1; i != root;) {
      i = before_[j];
      row_of_[j] = i;
      std::swap(column_of_[i], j);
    }
    --free_rows_;
  }
}

template <class T>
void Assigner<T>::augment_ties() {
  open_price_ = column_price_;
  std::fill(next_.begin(), next_.end(), 0);
  for (int64_t i = 0; i < n_; ++i) free_rows_ -= column_of_[i] < 0 && search_from(i);
}

template <class T>
bool Assigner<T>::search_from(int64_t root) {
  for (stack_.assign(1, root); !stack_.empty();) {
    const int64_t i = stack_.back();
    const int64_t j = scans_.within(row(i), open_price_.data(), next_[i], n_, row_price_[i] + rounding_);
    next_[i] = j + 1;
    if (j == n_) {
      stack_.pop_back();
      continue;
    }
    tried_[i] = j;
    open_price_[j] = -kInfinity;
    if (row_of_[j] < 0) {
      for (int64_t k : stack_) {
        column_of_[k] = tried_[k];
        row_of_[tried_[k]] = k;
      }
      return true;
    }
    stack_.push_back(row_of_[j]);
  }
  return false;
}

template <class T>
double Assigner<T>::bound() const {
  return std::accumulate(row_price_.begin(), row_price_.end(), 0.0) +
         std::accumulate(column_price_.begin(), column_price_.end(), 0.0);
}

template class Assigner<float>;
template class Assigner<double>;

}  // namespace bimt
