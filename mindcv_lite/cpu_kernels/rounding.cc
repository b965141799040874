// Rounding to the 256 numbers that uint8 can hold, and its gradient, in one pass each, for MindSpore's "aot" custom
// operators on a CPU: float32, (batch, ...).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace {

constexpr float kLevels = 255;

void round(int64_t batch, int64_t size, const float *x, float scale, float zero, float *y) {
  parallel(batch, 10 * batch * size, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin * size; i < end * size; ++i)
      y[i] = (std::min(std::max(std::rint(x[i] / scale) + zero, 0.0f), kLevels) - zero) * scale;
  });
}

// dx is dy within the range and 0 beyond. Returns the sum of dy * (y - x) within the range, of dy * y beyond.
float gradient(int64_t size, const float *dy, const float *x, float scale, float zero, float *dx) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; ++i) {
    const float whole = std::rint(x[i] / scale) + zero, held = std::min(std::max(whole, 0.0f), kLevels);
    const float within = whole == held ? 1 : 0;
    total += dy[i] * ((held - zero) * scale - within * x[i]);
    dx[i] = dy[i] * within;
  }
  return total;
}

void gradients(int64_t batch, int64_t size, const float *dy, const float *x, float scale, float zero, float *dx,
               float *sum) {
  std::vector<double> sums(batch);
  double *each = sums.data();
  parallel(batch, 20 * batch * size, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      each[n] = gradient(size, dy + n * size, x + n * size, scale, zero, dx + n * size);
  });
  double total = 0;
  for (const double one : sums) total += one;
  *sum = total;
}

// x, scale, zero -> y; or dy, x, scale, zero -> dx, sum. Returns 0, or what is wrong: 1 the number of arrays, 2 their
// kind, 3 shapes, 5 memory or threads.
template <bool IsGradient>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  constexpr char kForward[] = "xssx", kBackward[] = "xxssxs";  // x: as many numbers as x has; s: one
  const char *kinds = IsGradient ? kBackward : kForward;
  if (count != int(std::strlen(kinds))) return 1;
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(types[i], "float32") != 0 || ranks[i] != (kinds[i] == 'x' ? ranks[0] : 1)) return 2;
    if (kinds[i] == 'x' ? !std::equal(shapes[0], shapes[0] + ranks[0], shapes[i]) : shapes[i][0] != 1) return 3;
  }
  int64_t size = 1;
  for (int i = 1; i < ranks[0]; ++i) size *= shapes[0][i];
  const auto a = reinterpret_cast<float **>(arrays);
  return status_of([&] {
    if constexpr (IsGradient)
      gradients(shapes[0][0], size, a[0], a[1], *a[2], *a[3], a[4], a[5]);
    else
      round(shapes[0][0], size, a[0], *a[1], *a[2], a[3]);
  });
}

}  // namespace

OPERATOR(round_to_uint8, run<false>)
OPERATOR(round_to_uint8_gradient, run<true>)
