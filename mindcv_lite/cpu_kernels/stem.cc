// The stem and the gradient of its weight, for MindSpore's "aot" custom operators on a CPU: NCHW, float32; a convolution of
// 3 x 3 and stride 2 from a few channels to a multiple of eight.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "planes.h"

namespace {

constexpr int K = 3, S = 2;
constexpr int64_t kBlock = 8;  // channels of the output at a time, whose sums stay in registers
constexpr int64_t kBand = 4;   // rows of the output at a time, whose input stays in the nearest cache

int64_t flops(const Shape &d, int64_t outputs) { return 2 * d.n * outputs * d.c * K * K * d.oh * d.ow; }

// The input rows of a band of output rows, of all channels of an image: [channel][phase][row][column], zeros around them.
class Band {
 public:
  explicit Band(const Shape &d)
      : d(d), width(d.width<K, S>()), plane((kBand * S + K - S) * width), buffer(d.c * S * plane) {}

  // The band begins with output row r.
  void fill(const float *image, int64_t r) {
    for (int64_t c = 0; c < d.c; ++c)
      for (int64_t i = 0; i * width < plane; ++i) {
        const int64_t y = r * S + i - d.top;
        float *row = &buffer[c * S * plane + i * width];
        if (y >= 0 && y < d.h) move_row<S>(d, image + (c * d.h + y) * d.w, row, plane);
        else
          for (int s = 0; s < S; ++s) std::fill_n(row + s * plane, width, 0.0f);
      }
  }

  // What tap (i, j) of the kernel reads for output row r of the band, from output column q on.
  const float *tap(int64_t c, int64_t r, int i, int j, int64_t q) const {
    return &buffer[(c * S + j % S) * plane + (r * S + i) * width + q + j / S];
  }

 private:
  const Shape d;
  const int64_t width, plane;
  std::vector<float> buffer;
};

void forward(const Shape &d, int64_t outputs, const float *x, const float *weight, float *y) {
  const int64_t bands = (d.oh + kBand - 1) / kBand;
  parallel(d.n * bands, flops(d, outputs), [=](int64_t begin, int64_t end) {
    Band band(d);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t n = p / bands, first = p % bands * kBand, rows = std::min(kBand, d.oh - first);
      band.fill(x + n * d.c * d.h * d.w, first);
      for (int64_t o = 0; o < outputs; o += kBlock)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t q = 0; q < d.ow; q += L) {
            Vector sum[kBlock] = {};
            for (int64_t c = 0; c < d.c; ++c)
              for (int i = 0; i < K; ++i)
                for (int j = 0; j < K; ++j) {
                  const Vector tap = load(band.tap(c, r, i, j, q));
                  const float *k = weight + ((o * d.c + c) * K + i) * K + j;
                  for (int b = 0; b < kBlock; ++b) sum[b] += splat(k[b * d.c * K * K]) * tap;
                }
            for (int b = 0; b < kBlock; ++b)
              store(y + ((n * outputs + o + b) * d.oh + first + r) * d.ow + q, sum[b], d.ow - q);
          }
    }
  });
}

// Adds to sums, (outputs, channels, K, K), those of `rows` rows of dy, of an image from the band's first row on.
void add_band(const Shape &d, int64_t outputs, int64_t rows, const float *dy, const Band &band, Vector *sums) {
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t c = 0; c < d.c; ++c) {
      Vector part[K][K] = {};
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t q = 0; q < d.ow; q += L) {
          const Vector gradient = load(dy + (o * d.oh + r) * d.ow + q, d.ow - q);
          for (int i = 0; i < K; ++i)
            for (int j = 0; j < K; ++j) part[i][j] += gradient * load(band.tap(c, r, i, j, q));
        }
      for (int t = 0; t < K * K; ++t) sums[(o * d.c + c) * K * K + t] += part[t / K][t % K];
    }
}

void grad_weight(const Shape &d, int64_t outputs, const float *dy, const float *x, float *dw) {
  const int64_t weights = outputs * d.c * K * K;
  std::vector<float> gradients(d.n * weights);  // of each image: how many threads there are changes no bit
  parallel(d.n, flops(d, outputs), [&](int64_t begin, int64_t end) {
    Band band(d);
    std::vector<Vector> sums(weights);
    for (int64_t n = begin; n < end; ++n) {
      std::fill(sums.begin(), sums.end(), Vector{});
      for (int64_t first = 0; first < d.oh; first += kBand) {
        band.fill(x + n * d.c * d.h * d.w, first);
        const float *rows = dy + (n * outputs * d.oh + first) * d.ow;
        add_band(d, outputs, std::min(kBand, d.oh - first), rows, band, sums.data());
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

// x, weight -> y; with `Gradient` dy, x, weight -> dw. Returns 0, or what is wrong: 1 the number of arrays, 2 their kind,
// 3 shapes, 4 channels of the output, 5 memory or threads.
template <bool Gradient, bool Same>
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count != (Gradient ? 4 : 3)) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != 4 || std::strcmp(types[i], "float32") != 0) return 2;
  const int64_t *x = shapes[Gradient], *w = shapes[Gradient + 1], *y = shapes[Gradient ? 0 : 2];
  const int64_t expected_y[] = {x[0], w[0], (x[2] + 1) / 2, (x[3] + 1) / 2}, expected_w[] = {w[0], x[1], K, K};
  if (!std::equal(y, y + 4, expected_y) || !std::equal(w, w + 4, expected_w)) return 3;
  if (Gradient && !std::equal(w, w + 4, shapes[3])) return 3;
  if (w[0] % kBlock) return 4;
  const auto before = [](int64_t in) { return Same ? in % 2 : K / 2; };  // TensorFlow's SAME: an odd zero is at the end
  const Shape d{x[0], x[1], x[2], x[3], y[2], y[3], before(x[2]), before(x[3])};
  const auto a = reinterpret_cast<float **>(arrays);
  return status_of([&] {
    if constexpr (Gradient) grad_weight(d, w[0], a[0], a[1], a[3]);
    else forward(d, w[0], a[0], a[1], a[2]);
  });
}

}  // namespace

OPERATOR(stem_forward, run<false, false>)
OPERATOR(stem_forward_same, run<false, true>)
OPERATOR(stem_grad_weight, run<true, false>)
OPERATOR(stem_grad_weight_same, run<true, true>)
