// The moving average of all weights in one pass, for MindSpore's "aot" custom operators on a CPU: float32, any shapes.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "parallel.h"

namespace {

// Returns 0, or what is wrong: 1 the number of arrays, 2 their kind, 3 shapes, 5 memory or threads.
int run(int count, void **arrays, int *ranks, int64_t **shapes, const char **types) {
  if (count < 4 || count % 3 != 1) return 1;  // the share; averages; weights; the averages moved
  for (int i = 0; i < count; ++i)
    if (std::strcmp(types[i], "float32") != 0) return 2;
  if (ranks[0] != 1 || shapes[0][0] != 1) return 3;
  const int parameters = count / 3;
  for (int i = 1; i <= 2 * parameters; ++i)  // each beside the array that stands for the same parameter after it
    if (!std::equal(shapes[i], shapes[i] + ranks[i], shapes[i + parameters], shapes[i + parameters] + ranks[i + parameters]))
      return 3;
  return status_of([&] {
    std::vector<int64_t> ends(1, 0);  // of each parameter among the numbers of all
    for (int i = 1; i <= parameters; ++i)
      ends.push_back(std::accumulate(shapes[i], shapes[i] + ranks[i], int64_t(1), std::multiplies<>()) + ends.back());
    const float share = *static_cast<float *>(arrays[0]);
    parallel(ends.back(), 4 * ends.back(), [&](int64_t begin, int64_t end) {
      for (int i = 1; i <= parameters; ++i) {
        const float *average = static_cast<float *>(arrays[i]), *weight = static_cast<float *>(arrays[i + parameters]);
        float *moved = static_cast<float *>(arrays[i + 2 * parameters]);
        const int64_t first = std::max(begin, ends[i - 1]) - ends[i - 1], last = std::min(end, ends[i]) - ends[i - 1];
        // Written so that an average of what does not move, does not move by a bit either.
#pragma omp simd
        for (int64_t j = first; j < last; ++j) moved[j] = average[j] + share * (weight[j] - average[j]);
      }
    });
  });
}

}  // namespace

OPERATOR(move_averages, run)
