// The mean of each plane and the product of each plane with a number, as squeeze-excite takes them, with their gradients,
// for MindSpore's "aot" custom operators on a CPU: NCHW, float32.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace {

template <class Value>
float sum(int64_t size, Value value) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; ++i) total += value(i);
  return total;
}

template <class Value>
void each(int64_t size, float *out, Value value) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) out[i] = value(i);
}

enum Task { kMean, kMeanGradient, kScale, kScaleGradient };

// Of one plane of `size` pixels, or of one number where an array is (batch, channels, 1, 1).
template <Task T>
void plane(int64_t size, const float *const *in, float *const *out) {
  const float *a = in[0], *b = in[1];
  if constexpr (T == kMean) *out[0] = sum(size, [=](int64_t i) { return a[i]; }) / size;
  if constexpr (T == kMeanGradient) std::fill(out[0], out[0] + size, *a / size);
  if constexpr (T == kScale) each(size, out[0], [=, gate = *b](int64_t i) { return a[i] * gate; });
  if constexpr (T == kScaleGradient) {
    each(size, out[0], [=, gate = *in[2]](int64_t i) { return a[i] * gate; });
    *out[1] = sum(size, [=](int64_t i) { return a[i] * b[i]; });
  }
}

// What an array holds, a letter for each input and output: x planes, s one number for each of them.
constexpr const char *kKinds[] = {
    "x" "s",     // x -> mean
    "sx" "x",    // dmean, x -> dx
    "xs" "x",    // x, gates -> y
    "xxs" "xs",  // dy, x, gates -> dx, dgates
};
constexpr int kInputs[] = {1, 2, 2, 3};

// Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes, 5 memory or threads.
template <Task T>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  constexpr const char *kinds = kKinds[T];
  if (count != int(std::strlen(kinds))) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != 4 || std::strcmp(types[i], "float32") != 0) return 2;
  const int64_t *x = shapes[std::strchr(kinds, 'x') - kinds], one[] = {x[0], x[1], 1, 1}, size = x[2] * x[3];
  for (int i = 0; i < count; ++i)
    if (!std::equal(shapes[i], shapes[i] + 4, kinds[i] == 'x' ? x : one)) return 3;
  return status_of([&] {
    parallel(x[0] * x[1], 4 * x[0] * x[1] * size, [=](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        float *of_plane[5];
        for (int i = 0; i < count; ++i) of_plane[i] = static_cast<float *>(arrays[i]) + p * (kinds[i] == 'x' ? size : 1);
        plane<T>(size, of_plane, of_plane + kInputs[T]);
      }
    });
  });
}

}  // namespace

OPERATOR(spatial_mean, run<kMean>)
OPERATOR(spatial_mean_gradient, run<kMeanGradient>)
OPERATOR(scale_channels, run<kScale>)
OPERATOR(scale_channels_gradient, run<kScaleGradient>)
