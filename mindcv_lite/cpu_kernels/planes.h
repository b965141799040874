// What the convolutions share: vectors of floats, and planes (one channel of one image) with zeros around them.
//
// Each plane is copied into a small buffer with zeros around it, which keeps the columns of each stride phase apart, so
// that all inner loops read contiguous floats. Vectors are GCC's and Clang's own extension, which they make into the
// instructions of whatever processor they compile for.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int64_t L = 8;  // floats in a vector
typedef float Vector __attribute__((vector_size(L * sizeof(float))));

inline Vector load(const float *p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, Vector v) { std::memcpy(p, &v, sizeof v); }
// The end of a row: `count` floats, and zeros.
inline Vector load(const float *p, int64_t count) {
  if (count >= L) return load(p);
  Vector v = {};
  std::memcpy(&v, p, count * sizeof(float));
  return v;
}
inline void store(float *p, Vector v, int64_t count) {
  if (count >= L) store(p, v);
  else std::memcpy(p, &v, count * sizeof(float));
}
inline Vector splat(float f) { return f - Vector{}; }  // f + 0 would be an addition, for the sake of -0
inline int64_t whole_vectors(int64_t n) { return (n + L - 1) / L * L; }

struct Shape {
  int64_t n, c, h, w, oh, ow;  // images, channels, input, output
  int64_t top, left;           // zeros before the first row and column

  template <int K, int S>
  int64_t rows() const { return (oh + 3) / 4 * 4 * S + K; }  // of the input with zeros around; four output rows at a time
  template <int K, int S>
  int64_t width() const { return whole_vectors(ow) + (K - 1) / S + 1; }  // of one phase of such a row
  int64_t flops(int k) const { return 2 * n * c * oh * ow * k * k; }
};

// Moves a row of w floats from (a const row) or to S phases, which are `plane` floats apart and begin with `left` zeros.
template <int S, class Float>
inline void move_row(const Shape &d, Float *row, float *phases, int64_t plane) {
  for (int s = 0; s < S; ++s) {
    const int64_t first = (s + S - d.left % S) % S;  // the first column that belongs to phase s
    float *phase = phases + s * plane + (first + d.left) / S;
    Float *x = row + first;
    const int64_t count = (d.w - first + S - 1) / S;
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_const_v<Float>) phase[i] = x[i * S];
      else x[i * S] = phase[i];
    }
  }
}

// Copies a plane (h, w) into the buffer [phase][row][column], whose borders are zero and stay so.
template <int K, int S>
inline void pad(const Shape &d, const float *x, float *buffer) {
  const int64_t width = d.width<K, S>(), plane = d.rows<K, S>() * width;
  for (int64_t y = 0; y < d.h; ++y) {
    float *row = buffer + (y + d.top) * width;
    if constexpr (S == 1) std::memcpy(row + d.left, x + y * d.w, d.w * sizeof(float));
    else move_row<S>(d, x + y * d.w, row, plane);
  }
}

}  // namespace
