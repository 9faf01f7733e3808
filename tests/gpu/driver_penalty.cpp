// The penalty, its gradients and AdamW, against plain loops.

#include "driver.h"

namespace driver {
namespace {

using bimt::Matrix;
using bimt::gpu::Term;

double length(const Term<float>& term, int64_t row, int64_t col) {
  double sum = 0;
  for (int a = 0; a < term.dim; ++a) {
    sum += std::abs(double(term.out_pos[row * term.dim + a]) - double(term.in_pos[col * term.dim + a]));
  }
  return term.base_length + term.distance_scale * sum;
}

// A connection stored by rows, one by columns with gaps, and a bias.
struct Layer {
  static constexpr int64_t kRows = 37, kCols = 133, kPlain = 1100;
  static constexpr int kDim = 2;
  Array<float> w{kRows * kCols, -1, 1}, gapped{(kRows + 3) * kCols, -1, 1}, bias{kPlain, -1, 1};
  Array<float> out{kRows * kDim, 0, 1}, in{kCols * kDim, 0, 1};

  std::vector<Term<float>> terms(const Array<float>& g, const Array<float>& gap_g, const Array<float>& bias_g) const {
    const Matrix<float> gapped_w = {gapped.get(), kRows, kCols, 1, kRows + 3};
    const Matrix<float> gapped_g = {gap_g.get(), kRows, kCols, 1, kRows + 3};
    return {{rows_of(w, kRows, kCols), rows_of(g, kRows, kCols), out.get(), in.get(), kDim, 1.0, 0.7, 0.1},
            {gapped_w, gapped_g, out.get(), in.get(), kDim, 0.5, 1.0, 0.0},
            {rows_of(bias, 1, kPlain), rows_of(bias_g, 1, kPlain), nullptr, nullptr, 0, 2.0, 0.0, 0.3}};
  }
};

double cost_of(const std::vector<Term<float>>& terms) {
  double cost = 0;
  for (const Term<float>& term : terms) {
    for (int64_t r = 0; r < term.weight.rows; ++r) {
      for (int64_t c = 0; c < term.weight.cols; ++c)
        cost += term.coefficient * std::abs(double(term.weight.at(r, c))) * length(term, r, c);
    }
  }
  return cost;
}

double sign(double x) { return (x > 0) - (x < 0); }

void check_gradient() {
  const Layer layer;
  const Array<float> g(layer.w.size()), gap_g(layer.gapped.size()), bias_g(layer.bias.size()), cost(1);
  const auto terms = layer.terms(g, gap_g, bias_g);
  const Array<double> partial(bimt::gpu::penalty_blocks(terms.data(), 3));
  bimt::gpu::penalty<float>(kQueue, {terms.data(), 3, 0, {}, 0.25, nullptr, partial.get(), cost.get()});
  expect_near("cost", cost[0], cost_of(terms), cost_of(terms));
  for (const auto& term : terms) {
    for (int64_t r = 0; r < term.weight.rows; ++r) {
      for (int64_t c = 0; c < term.weight.cols; ++c) {
        const double expected = 0.25 * term.coefficient * sign(term.weight.at(r, c)) * length(term, r, c);
        expect_near("gradient", term.grad.at(r, c), expected, 1);
      }
    }
  }
}

void check_adamw(bool proximal) {
  const Layer layer;
  const Array<float> g(layer.w.size(), -1, 1), gap_g(layer.gapped.size(), -1, 1), bias_g(layer.bias.size(), -1, 1);
  const auto terms = layer.terms(g, gap_g, bias_g);
  const Array<float> m[] = {Array<float>(g.size(), -1, 1), Array<float>(gap_g.size(), -1, 1),
                            Array<float>(bias_g.size(), -1, 1)};
  const Array<float> v[] = {Array<float>(g.size(), 0.5, 1), Array<float>(gap_g.size(), 0.5, 1),
                            Array<float>(bias_g.size(), 0.5, 1)};
  const Array<float> steps(3, 4, 4), cost(1);
  std::vector<bimt::gpu::Moments<float>> moments;
  for (int k = 0; k < 3; ++k) moments.push_back({m[k].get(), v[k].get(), &steps[k]});
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.99, eps = 1e-3, decay = 0.1, lam = 0.5, before = cost_of(terms);
  std::vector<double> expected;
  for (int k = 0; k < 3; ++k) {
    const Term<float>& term = terms[k];
    for (int64_t r = 0; r < term.weight.rows; ++r) {
      for (int64_t c = 0; c < term.weight.cols; ++c) {
        const int64_t at = r * term.weight.row_stride + c * term.weight.col_stride;
        const double w = term.weight.data[at], charge = lam * term.coefficient * length(term, r, c);
        const double grad = term.grad.data[at] + (proximal ? 0 : sign(w) * charge);
        const double mean = beta1 * m[k][at] + (1 - beta1) * grad,
                     square = beta2 * v[k][at] + (1 - beta2) * grad * grad;
        const double root = std::sqrt(square) / std::sqrt(1 - std::pow(beta2, 5)) + eps;
        const double next = w * (1 - lr * decay) - lr / (1 - std::pow(beta1, 5)) * mean / root;
        expected.push_back(proximal ? sign(next) * std::max(std::abs(next) - lr * charge, 0.0) : next);
      }
    }
  }
  const Array<double> partial(bimt::gpu::penalty_blocks(terms.data(), 3));
  bimt::gpu::adamw<float>(
      kQueue,
      {terms.data(), moments.data(), 3, 0, {}, lr, beta1, beta2, eps, decay, lam, proximal, partial.get(), cost.get()});
  expect_near("cost before the step", cost[0], before, before);
  for (int64_t k = 0, i = 0; k < 3; ++k) {
    expect_near("steps", steps[k], 5, 1);
    for (int64_t r = 0; r < terms[k].weight.rows; ++r) {
      for (int64_t c = 0; c < terms[k].weight.cols; ++c)
        expect_near("weight", terms[k].weight.at(r, c), expected[i++], 1);
    }
  }
}

void check_position_gradient(bool across) {
  const int64_t rows = 37, cols = 70;
  const int dim = 2;
  const Array<float> w(rows * cols, -1, 1), own(rows * dim, 0, 1), peers(cols * dim, 0, 1), factor(1, 2, 2);
  const Array<float> gradient(rows * dim);
  const Matrix<float> weight = across ? columns_of(w, rows, cols) : rows_of(w, rows, cols);
  bimt::gpu::position_gradient<float>(kQueue, {{weight.data, rows, cols, weight.row_stride, weight.col_stride},
                                               own.get(),
                                               peers.get(),
                                               dim,
                                               0,
                                               0.5,
                                               factor.get(),
                                               gradient.get()});
  for (int64_t r = 0; r < rows; ++r) {
    for (int a = 0; a < dim; ++a) {
      double expected = 0;
      for (int64_t c = 0; c < cols; ++c)
        expected += std::abs(double(weight.at(r, c))) * sign(own[r * dim + a] - peers[c * dim + a]);
      expect_near("position gradient", gradient[r * dim + a], expected, double(cols));
    }
  }
}

}  // namespace

void check_penalty() {
  check_gradient();
  check_adamw(false);
  check_adamw(true);
  check_position_gradient(false);
  check_position_gradient(true);
}

}  // namespace driver
