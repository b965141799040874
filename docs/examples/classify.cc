// classify small.onnx image.jpg ...
//
// The best class of each image and its probability, by a file of `export --include_preprocess --softmax`. It was
// tried with OpenCV 4.6 and needs nothing of this project:
//   g++ -std=c++17 -O2 classify.cc -o classify $(pkg-config --cflags --libs opencv4)

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

using std::string;

// A text of the file's metadata, which OpenCV does not read: each entry is a key and a value with their lengths.
string entry(const string& file, const string& key) {
  size_t at = file.rfind("\x0a" + string(1, static_cast<char>(key.size())) + key + "\x12");
  if (at == string::npos) return "";
  at += key.size() + 3;
  size_t length = 0;  // seven bits a byte, the lowest first; the last byte is below 128
  for (int shift = 0;; shift += 7) {
    auto byte = static_cast<unsigned char>(file.at(at++));
    length |= static_cast<size_t>(byte & 127) << shift;
    if (byte < 128) return file.substr(at, length);
  }
}

// The texts of a JSON list, in UTF-8.
std::vector<string> texts(const string& json) {
  std::vector<string> found;
  bool inside = false;
  for (size_t at = 0; at < json.size(); ++at) {
    if (json[at] == '"') {
      if ((inside = !inside)) found.emplace_back();
    } else if (inside && json[at] == '\\') {
      const char escape = json[++at];
      static const std::map<char, char> controls{{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'}, {'f', '\f'}};
      if (escape != 'u') {
        found.back() += controls.count(escape) ? controls.at(escape) : escape;
        continue;
      }
      auto code = std::stoul(json.substr(at + 1, 4), nullptr, 16);
      at += 4;
      if (code >> 10 == 0x36 && json[at + 1] == '\\') {  // the first half of a character beyond 16 bits
        code = 0x10000 + ((code & 1023) << 10) + (std::stoul(json.substr(at + 3, 4), nullptr, 16) & 1023);
        at += 6;
      }
      if (code < 128) {
        found.back() += static_cast<char>(code);
        continue;
      }
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
      found.back() += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | code >> 6 * more);
      for (int byte = more - 1; byte >= 0; --byte) found.back() += static_cast<char>(128 | (code >> 6 * byte & 63));
    } else if (inside) {
      found.back() += json[at];
    }
  }
  return found;
}

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: classify small.onnx image.jpg ...\n");
    return 1;
  }
  std::ifstream stream(arguments[1], std::ios::binary);
  const string file{std::istreambuf_iterator<char>(stream), {}};
  const auto names = texts(entry(file, "class_names"));
  int height = 0, width = 0;
  const string side = entry(file, "image_resize");
  if (std::sscanf(side.c_str(), "[%d, %d]", &height, &width) != 2) height = width = std::stoi(side);
  const double crop_pct = std::stod(entry(file, "crop_pct"));
  const int rows = static_cast<int>(height / crop_pct), columns = static_cast<int>(width / crop_pct);
  const std::map<string, int> resizes{{"bilinear", cv::INTER_LINEAR}, {"bicubic", cv::INTER_CUBIC},
                                      {"nearest", cv::INTER_NEAREST}, {"area", cv::INTER_AREA}};
  const int as_stored = entry(file, "follow_exif") == "false" ? cv::IMREAD_IGNORE_ORIENTATION : 0;
  auto network = cv::dnn::readNetFromONNX(arguments[1]);

  for (int number = 2; number < count; ++number) {
    cv::Mat image = cv::imread(arguments[number], cv::IMREAD_COLOR | as_stored);
    if (image.empty()) {
      std::fprintf(stderr, "%s: no image that OpenCV reads\n", arguments[number]);
      return 1;
    }
    cv::Size size(columns, rows);
    if (rows == columns) {  // the shorter side becomes that long; in float32, as validate.py computes
      const auto [shorter, longer] = std::minmax(image.rows, image.cols);
      const float ratio = static_cast<float>(longer) / static_cast<float>(shorter);
      (image.cols < image.rows ? size.height : size.width) = static_cast<int>(ratio * static_cast<float>(rows));
    } else {  // the largest part of that shape, from the centre
      const int high = std::min<int>(image.rows, std::lround(1.0 * image.cols * rows / columns));
      const int wide = std::min<int>(image.cols, std::lround(1.0 * image.rows * columns / rows));
      image = image({static_cast<int>(std::lround((image.cols - wide) / 2.0)),
                     static_cast<int>(std::lround((image.rows - high) / 2.0)), wide, high});
    }
    cv::resize(image, image, size, 0, 0, resizes.at(entry(file, "interpolation")));
    image = image({(image.cols - width) / 2, (image.rows - height) / 2, width, height});
    const bool grey = entry(file, "in_channels") == "1";
    cv::cvtColor(image, image, grey ? cv::COLOR_BGR2GRAY : cv::COLOR_BGR2RGB);
    if (CV_VERSION_MAJOR < 5) image.convertTo(image, CV_32F);  // OpenCV 5 takes uint8
    network.setInput(cv::Mat({1, height, width, image.channels()}, image.depth(), image.clone().data));
    cv::Point best;
    double probability = 0;
    cv::minMaxLoc(network.forward(), nullptr, &probability, nullptr, &best);
    std::printf("%s\t%s\t%.4f\n", arguments[number], names.at(best.x).c_str(), probability);
  }
}
