// Exact linear assignment on an n x n cost matrix: shortest augmenting paths from all free rows at once.
//
// Rows and columns have prices with cost[i, j] >= row_price[i] + column_price[j], equal where i holds column j. A round
// grows the forest of shortest paths (Dijkstra 1959, dense) from every free row to every free column, raises prices by
// the distances, so that the forest is tight, and augments one path in each tree that reached a free column: trees have
// no row in common. Where entries are equal, other tight paths are looked for as well (depth first). The sum of the
// prices bounds the cost of every assignment from below and never falls.
//
// Serial: a row is scanned in about a microsecond, less than it takes to wake a thread.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace bimt {

template <class T>
class Assigner {
 public:
  // cost: finite, with unit stride along its columns. start: a permutation, the column of each row; the cheaper, the
  // fewer rounds.
  Assigner(const Matrix<const T>& cost, const RowScans<T>& scans, const int64_t* start);

  // False where an entry is NaN or infinite; nothing else may be asked then.
  bool finite() const { return finite_; }
  int64_t free_rows() const { return free_rows_; }
  void round();
  // The sum of the prices.
  double bound() const;
  // The column of each row: those of the cheapest assignment when no row is free.
  const std::vector<int64_t>& columns() const { return column_of_; }

 private:
  const T* row(int64_t i) const { return cost_.data + i * cost_.row_stride; }
  void price(const int64_t* start);
  void grow();
  void raise_prices();
  void augment_trees();
  void augment_ties();
  bool search_from(int64_t root);

  const Matrix<const T> cost_;
  const int64_t n_;
  const RowScans<T> scans_;
  bool finite_ = true;
  double rounding_ = 0;  // what the sum of an entry and its prices may be off by
  int64_t free_rows_;
  int64_t rounds_to_wait_ = 0, pause_ = 1;  // until ties are looked for again

  std::vector<double> row_price_, column_price_;
  std::vector<int64_t> column_of_, row_of_;  // -1: free

  std::vector<double> open_price_;  // that of a column, or minus infinity where it has been visited
  std::vector<double> distance_;    // of columns that have not
  std::vector<int64_t> before_;     // the row before each column on its shortest path
  std::vector<int64_t> root_of_;    // the free row whose tree a row is in
  std::vector<int64_t> reached_;    // by free row: the first free column of its tree, or -1
  std::vector<int64_t> visited_;    // columns in order of distance
  std::vector<double> visited_at_;
  std::vector<int64_t> next_, tried_,
      stack_;  // of the search for ties: by row, the column to look at and the last taken
};

}  // namespace bimt
