// The gradient of the stem's weight, for MindSpore's "aot" custom operators on a CPU: NCHW, float32; a convolution of 3 x 3
// and stride 2 from a few channels to a multiple of four.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "planes.h"

namespace {

constexpr int K = 3, S = 2;
constexpr int64_t kBlock = 4;  // channels of the output at a time: their sums fill the registers of AVX2

// Adds to sums, (outputs, channels, K, K), those of one row of dy, (outputs, ow), and of the rows of all input planes.
void add_row(const Shape &d, int64_t outputs, const float *dy, int64_t ow, const float *rows, Vector *sums) {
  const int64_t width = d.width<K, S>(), plane = d.rows<K, S>() * width;
  for (int64_t o = 0; o < outputs; o += kBlock)
    for (int64_t c = 0; c < d.c; ++c)
      for (int i = 0; i < K; ++i) {
        const float *row = rows + c * S * plane + i * width;
        Vector part[kBlock][K] = {};
        for (int64_t q = 0; q < ow; q += L) {
          const Vector taps[K] = {load(row + q), load(row + plane + q), load(row + q + 1)};
          for (int b = 0; b < kBlock; ++b)
            for (int j = 0; j < K; ++j) part[b][j] += load(dy + (o + b) * ow + q) * taps[j];
        }
        for (int b = 0; b < kBlock; ++b)
          for (int j = 0; j < K; ++j) sums[((o + b) * d.c + c) * K * K + i * K + j] += part[b][j];
      }
}

void grad_weight(const Shape &d, int64_t outputs, const float *dy, const float *x, float *dw) {
  const int64_t weights = outputs * d.c * K * K;
  std::vector<float> gradients(d.n * weights);  // of each image: how many threads there are changes no bit
  parallel(d.n, 2 * d.n * weights * d.oh * d.ow, [&](int64_t begin, int64_t end) {
    const int64_t width = d.width<K, S>(), plane = d.rows<K, S>() * width, ow = whole_vectors(d.ow);
    std::vector<float> buffer(d.c * S * plane + L), gradient(outputs * ow);
    std::vector<Vector> sums(weights);
    for (int64_t n = begin; n < end; ++n) {
      std::fill(sums.begin(), sums.end(), Vector{});
      for (int64_t c = 0; c < d.c; ++c) pad<K, S>(d, x + (n * d.c + c) * d.h * d.w, &buffer[c * S * plane]);
      for (int64_t r = 0; r < d.oh; ++r) {
        for (int64_t o = 0; o < outputs; ++o)
          std::memcpy(&gradient[o * ow], dy + ((n * outputs + o) * d.oh + r) * d.ow, d.ow * sizeof(float));
        add_row(d, outputs, gradient.data(), ow, &buffer[r * S * width], sums.data());
      }
      for (int64_t t = 0; t < weights; ++t)
        for (int l = 0; l < L; ++l) gradients[n * weights + t] += sums[t][l];
    }
  });
  for (int64_t t = 0; t < weights; ++t) {
    double total = 0;
    for (int64_t n = 0; n < d.n; ++n) total += gradients[n * weights + t];
    dw[t] = total;
  }
}

// dy, x, weight -> dw. Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes, 4 channels of the
// output, 5 memory or threads.
template <bool Same>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count != 4) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != 4 || std::strcmp(types[i], "float32") != 0) return 2;
  const int64_t *y = shapes[0], *x = shapes[1], *w = shapes[2];
  const int64_t expected_y[] = {x[0], w[0], (x[2] + 1) / 2, (x[3] + 1) / 2}, expected_w[] = {w[0], x[1], K, K};
  if (!std::equal(y, y + 4, expected_y) || !std::equal(w, w + 4, expected_w) || !std::equal(w, w + 4, shapes[3])) return 3;
  if (w[0] % kBlock) return 4;
  const auto before = [](int64_t in) { return Same ? in % 2 : K / 2; };  // TensorFlow's SAME: an odd zero is at the end
  const Shape d{x[0], x[1], x[2], x[3], y[2], y[3], before(x[2]), before(x[3])};
  const auto a = reinterpret_cast<float **>(arrays);
  return status_of([&] { grad_weight(d, w[0], a[0], a[1], a[3]); });
}

}  // namespace

OPERATOR(stem_grad_weight, run<false>)
OPERATOR(stem_grad_weight_same, run<true>)
