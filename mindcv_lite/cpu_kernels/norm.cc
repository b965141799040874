// BatchNorm with the activation behind it, in training with its gradient and in evaluation, for MindSpore's "aot" custom
// operators on a CPU: NCHW, float32. Channel by channel: what is read again and again stays in the processor's cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "parallel.h"

namespace {

struct Linear {
  static float value(float y) { return y; }
  static float slope(float) { return 1; }
};
struct Relu {
  static float value(float y) { return y < 0 ? 0 : y; }  // not a number stays one, and is noticed
  static float slope(float y) { return y > 0 ? 1 : 0; }
};
struct HSwish {  // y * min(max(y + 3, 0), 6) / 6
  static float gate(float y) { return std::min(std::max(y / 6 + 0.5f, 0.0f), 1.0f); }
  static float value(float y) { return y * gate(y); }
  static float slope(float y) { return gate(y) + (std::fabs(y) < 3 ? y / 6 : 0.0f); }
};

struct Shape {
  int64_t n, c, size;  // images, channels, pixels of a plane
  double count() const { return double(n * size); }
};

// Sums of first(i) and second(i) over the pixels of all planes of channel c, where i counts from the array's beginning.
template <class First, class Second>
std::pair<double, double> sums(const Shape &d, int64_t c, First first, Second second) {
  std::pair<double, double> totals;
  for (int64_t n = 0; n < d.n; ++n) {
    const int64_t begin = (n * d.c + c) * d.size, end = begin + d.size;
    float a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t i = begin; i < end; ++i) {
      a += first(i);
      b += second(i);
    }
    totals.first += a;
    totals.second += b;
  }
  return totals;
}

// Sets each pixel of all planes of channel c to value(i).
template <class Value>
void each(const Shape &d, int64_t c, float *out, Value value) {
  for (int64_t n = 0; n < d.n; ++n) {
    const int64_t begin = (n * d.c + c) * d.size, end = begin + d.size;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = value(i);
  }
}

template <class Activation>
void normalise(const Shape &d, int64_t c, const float *x, float scale, float mean, float beta, float *y) {
  each(d, c, y, [=](int64_t i) { return Activation::value((x[i] - mean) * scale + beta); });
}

template <class Activation>
void evaluate(const Shape &d, const float *x, const float *gamma, const float *beta, const float *means,
              const float *variances, float eps, float *y) {
  parallel(d.c, 10 * d.n * d.c * d.size, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      normalise<Activation>(d, c, x, gamma[c] / std::sqrt(variances[c] + eps), means[c], beta[c], y);
  });
}

template <class Activation>
void train(const Shape &d, const float *x, const float *gamma, const float *beta, float eps, float *y, float *means,
           float *variances) {
  parallel(d.c, 20 * d.n * d.c * d.size, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const auto value = [=](int64_t i) { return x[i]; };
      const auto nothing = [](int64_t) { return 0.0f; };
      const float near = sums(d, c, value, nothing).first / d.count();
      const auto away = [=](int64_t i) { return x[i] - near; };
      const auto square = [=](int64_t i) { return away(i) * away(i); };
      const auto [distance, squares] = sums(d, c, away, square);
      const double rest = distance / d.count();  // from what sums in float32 took for the mean
      const float mean = near + rest, variance = squares / d.count() - rest * rest;
      normalise<Activation>(d, c, x, gamma[c] / std::sqrt(variance + eps), mean, beta[c], y);
      means[c] = mean;
      variances[c] = variance;
    }
  });
}

template <class Activation>
void gradient(const Shape &d, const float *dy, const float *x, const float *gamma, const float *beta,
              const float *means, const float *variances, float eps, float *dx, float *dgamma, float *dbeta) {
  parallel(d.c, 20 * d.n * d.c * d.size, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const float mean = means[c], inverse = 1 / std::sqrt(variances[c] + eps), scale = gamma[c] * inverse;
      const auto normal = [=](int64_t i) { return (x[i] - mean) * inverse; };
      const auto slope = [=](int64_t i) { return dy[i] * Activation::slope((x[i] - mean) * scale + beta[c]); };
      const auto [slopes, products] = sums(d, c, slope, [=](int64_t i) { return slope(i) * normal(i); });
      const float mean_slope = slopes / d.count(), mean_product = products / d.count();
      each(d, c, dx, [=](int64_t i) { return scale * (slope(i) - mean_slope - normal(i) * mean_product); });
      dbeta[c] = slopes;
      dgamma[c] = products;
    }
  });
}

// What an array holds, a letter for each input and output: x as many numbers as there are pixels in all, c one for each
// channel, e the epsilon.
constexpr char kTrain[] = "xcce" "xcc";        // x, gamma, beta, eps -> y, mean, variance
constexpr char kGradient[] = "xxcccce" "xcc";  // dy, x, gamma, beta, mean, variance, eps -> dx, dgamma, dbeta
constexpr char kEvaluate[] = "xcccce" "x";     // x, gamma, beta, mean, variance, eps -> y

// Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes, 5 memory or threads.
template <class Activation, const char *Kinds>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count != int(std::strlen(Kinds))) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != (Kinds[i] == 'x' ? 4 : 1) || std::strcmp(types[i], "float32") != 0) return 2;
  const int64_t *x = shapes[0];
  const Shape d{x[0], x[1], x[2] * x[3]};
  for (int i = 0; i < count; ++i)
    if (Kinds[i] == 'x' ? !std::equal(x, x + 4, shapes[i]) : shapes[i][0] != (Kinds[i] == 'c' ? d.c : 1)) return 3;
  const auto a = reinterpret_cast<float **>(arrays);
  return status_of([&] {
    if constexpr (Kinds == kTrain) train<Activation>(d, a[0], a[1], a[2], *a[3], a[4], a[5], a[6]);
    if constexpr (Kinds == kGradient)
      gradient<Activation>(d, a[0], a[1], a[2], a[3], a[4], a[5], *a[6], a[7], a[8], a[9]);
    if constexpr (Kinds == kEvaluate) evaluate<Activation>(d, a[0], a[1], a[2], a[3], a[4], *a[5], a[6]);
  });
}

}  // namespace

#define OPERATORS(NAME, ACTIVATION)                           \
  OPERATOR(norm_train_##NAME, run<ACTIVATION, kTrain>)        \
  OPERATOR(norm_gradient_##NAME, run<ACTIVATION, kGradient>)  \
  OPERATOR(norm_evaluate_##NAME, run<ACTIVATION, kEvaluate>)
OPERATORS(linear, Linear)
OPERATORS(relu, Relu)
OPERATORS(hswish, HSwish)
