// uint8 images (batch, height, width, channels) to normalised floats (batch, channels, height, width), in one pass, for
// MindSpore's "aot" custom operators on a CPU.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace {

// C channels: a number that the compiler knows lets it take the bytes of pixels apart with vectors.
template <int64_t C>
void normalize(int64_t images, int64_t size, const uint8_t *x, const float *scale, const float *shift, float *y) {
  parallel(images, 4 * images * size * C, [=](int64_t begin, int64_t end) {
    for (int64_t plane = begin * C; plane < end * C; ++plane) {
      const int64_t c = plane % C;
      const uint8_t *from = x + plane / C * size * C + c;
      const float a = scale[c], b = shift[c];
      float *to = y + plane * size;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) to[i] = from[i * C] * a + b;
    }
  });
}

// images, scale and shift (channels,) -> y. Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes,
// 4 the channels, 5 memory or threads.
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count != 4) return 1;
  for (int i = 0; i < count; ++i)
    if (ranks[i] != (i % 3 ? 1 : 4) || std::strcmp(types[i], i ? "float32" : "uint8") != 0) return 2;
  const int64_t *x = shapes[0], channels = x[3], expected[] = {x[0], channels, x[1], x[2]};
  if (shapes[1][0] != channels || shapes[2][0] != channels || !std::equal(expected, expected + 4, shapes[3])) return 3;
  if (channels != 1 && channels != 3) return 4;
  const auto floats = reinterpret_cast<float **>(arrays);
  const auto images = static_cast<const uint8_t *>(arrays[0]);
  const auto work = channels == 1 ? normalize<1> : normalize<3>;
  return status_of([&] { work(x[0], x[1] * x[2], images, floats[1], floats[2], floats[3]); });
}

}  // namespace

OPERATOR(normalize_images, run)
