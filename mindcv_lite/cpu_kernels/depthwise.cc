// Depthwise 2-D convolution and its two gradients, for MindSpore's "aot" custom operators on a CPU: NCHW, float32, one
// square kernel of side K for each channel, stride S.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "planes.h"

namespace {

template <int K, int S>
void forward(const Shape &d, const float *x, const float *weight, float *y) {
  parallel(d.n * d.c, d.flops(K), [=](int64_t begin, int64_t end) {
    const int64_t width = d.width<K, S>(), plane = d.rows<K, S>() * width, ow = whole_vectors(d.ow);
    std::vector<float> buffer(S * plane + L), out(4 * ow);
    for (int64_t p = begin; p < end; ++p) {
      const float *k = weight + p % d.c * K * K;
      pad<K, S>(d, x + p * d.h * d.w, buffer.data());
      for (int64_t r = 0; r < d.oh; r += 4) {
        for (int64_t c = 0; c < ow; c += L) {
          Vector sum[4] = {};
          for (int i = 0; i < K; ++i)
            for (int j = 0; j < K; ++j) {
              const float *source = &buffer[j % S * plane + (r * S + i) * width + c + j / S];
              for (int q = 0; q < 4; ++q) sum[q] += splat(k[i * K + j]) * load(source + q * S * width);
            }
          for (int q = 0; q < 4; ++q) store(&out[q * ow + c], sum[q]);
        }
        for (int64_t q = 0; q < 4 && r + q < d.oh; ++q)
          std::memcpy(y + (p * d.oh + r + q) * d.ow, &out[q * ow], d.ow * sizeof(float));
      }
    }
  });
}

template <int K, int S>
void grad_input(const Shape &d, const float *dy, const float *weight, float *dx) {
  if constexpr (S == 1) {  // the convolution of dy with each kernel turned by 180 degrees
    std::vector<float> turned(d.c * K * K);
    for (int64_t c = 0; c < d.c; ++c)
      std::reverse_copy(weight + c * K * K, weight + (c + 1) * K * K, &turned[c * K * K]);
    return forward<K, 1>(d, dy, turned.data(), dx);
  }
  parallel(d.n * d.c, d.flops(K), [=](int64_t begin, int64_t end) {
    constexpr int64_t T = (K - 1) / S;  // zero rows above dy, zero columns left of it
    const int64_t columns = whole_vectors((d.w + d.left + S - 1) / S), width = columns + T;  // one phase of a row of dx
    std::vector<float> buffer((d.oh + 2 * T + 1) * width + L), out(S * S * columns);
    for (int64_t p = begin; p < end; ++p) {
      const float *k = weight + p % d.c * K * K;
      for (int64_t r = 0; r < d.oh; ++r)
        std::memcpy(&buffer[(r + T) * width + T], dy + (p * d.oh + r) * d.ow, d.ow * sizeof(float));
      for (int64_t r = d.top / S; r <= (d.h - 1 + d.top) / S; ++r) {  // S rows of dx at a time
        for (int64_t c = 0; c < columns; c += L) {
          Vector sum[S][S] = {};
          for (int i = 0; i < K; ++i)
            for (int j = 0; j < K; ++j)
              sum[i % S][j % S] += splat(k[i * K + j]) * load(&buffer[(r - i / S + T) * width + T + c - j / S]);
          for (int t = 0; t < S * S; ++t) store(&out[t * columns + c], sum[t / S][t % S]);
        }
        for (int t = 0; t < S; ++t) {
          const int64_t y = r * S + t - d.top;
          if (y >= 0 && y < d.h) move_row<S>(d, dx + (p * d.h + y) * d.w, &out[t * S * columns], columns);
        }
      }
    }
  });
}

template <int K, int S>
void grad_weight(const Shape &d, const float *dy, const float *x, float *dw) {
  parallel(d.c, d.flops(K), [=](int64_t begin, int64_t end) {
    const int64_t width = d.width<K, S>(), plane = d.rows<K, S>() * width, ow = whole_vectors(d.ow);
    std::vector<float> buffer(S * plane + L), gradient(d.oh * ow);
    for (int64_t c = begin; c < end; ++c) {
      Vector sum[K][K] = {};
      for (int64_t n = 0; n < d.n; ++n) {
        const int64_t p = n * d.c + c;
        pad<K, S>(d, x + p * d.h * d.w, buffer.data());
        for (int64_t r = 0; r < d.oh; ++r)
          std::memcpy(&gradient[r * ow], dy + (p * d.oh + r) * d.ow, d.ow * sizeof(float));
        for (int i = 0; i < K; ++i) {
          Vector part[2][K] = {};  // two sums, so that an addition need not wait for the last
          for (int64_t r = 0; r < d.oh; ++r)
            for (int64_t q = 0; q < ow; q += L) {
              const float *source = &buffer[(r * S + i) * width + q];
              for (int j = 0; j < K; ++j)
                part[r & 1][j] += load(&gradient[r * ow + q]) * load(source + j % S * plane + j / S);
            }
          for (int j = 0; j < K; ++j) sum[i][j] += part[0][j] + part[1][j];
        }
      }
      for (int t = 0; t < K * K; ++t) {
        float total = 0;
        for (int l = 0; l < L; ++l) total += sum[t / K][t % K][l];
        dw[c * K * K + t] = total;
      }
    }
  });
}

enum Task { kForward, kGradInput, kGradWeight };

// Inputs, then the output. forward: x, weight -> y. grad_input: dy, weight, x -> dx. grad_weight: dy, x, weight -> dw.
// Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes, 4 the kernel's side, 5 memory or threads.
template <Task T, int S, bool Same>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count != (T == kForward ? 3 : 4)) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != 4 || std::strcmp(types[i], "float32") != 0) return 2;
  const int64_t *x = shapes[T == kForward ? 0 : T == kGradInput ? 2 : 1];
  const int64_t *w = shapes[T == kGradWeight ? 2 : 1], *y = shapes[T == kForward ? 2 : 0];
  const int64_t k = w[2];
  // As TensorFlow's SAME: as many zeros as the output needs, an odd one of them at the end.
  const auto before = [k](int64_t in, int64_t out) { return Same ? ((out - 1) * S + k - in) / 2 : k / 2; };
  const Shape d{x[0], x[1], x[2], x[3], y[2], y[3], before(x[2], y[2]), before(x[3], y[3])};
  if (w[0] != d.c || w[1] != 1 || w[3] != k || y[0] != d.n || y[1] != d.c || d.oh != (d.h - 1) / S + 1 ||
      d.ow != (d.w - 1) / S + 1)
    return 3;
  const auto a = static_cast<const float *>(arrays[0]), b = static_cast<const float *>(arrays[1]);
  const auto out = static_cast<float *>(arrays[count - 1]);
  const auto call = [&](auto side) {
    constexpr int K = decltype(side)::value;
    return status_of([&] {
      if constexpr (T == kForward) forward<K, S>(d, a, b, out);
      if constexpr (T == kGradInput) grad_input<K, S>(d, a, b, out);
      if constexpr (T == kGradWeight) grad_weight<K, S>(d, a, b, out);
    });
  };
  if (k == 3) return call(std::integral_constant<int, 3>());
  if (k == 5) return call(std::integral_constant<int, 5>());
  return 4;
}

}  // namespace

// <task>_<stride>, and <task>_2_same.
#define OPERATORS(NAME, TASK)            \
  OPERATOR(NAME##_1, run<TASK, 1, false>) \
  OPERATOR(NAME##_2, run<TASK, 2, false>) \
  OPERATOR(NAME##_2_same, run<TASK, 2, true>)
OPERATORS(forward, kForward)
OPERATORS(grad_input, kGradInput)
OPERATORS(grad_weight, kGradWeight)
