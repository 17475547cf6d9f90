// Memory passes of a dense block's training step, fused. See dense_block.py for who calls them.
//
// Matrices are [rows = N*H*W, channels], bfloat16, rows `stride` apart; per-channel vectors are
// float32. One bfloat16 array in, one out: what plain torch does in four to six passes.
#include <torch/extension.h>

#include <cstdint>
#include <vector>

namespace {

constexpr int64_t kTileElements = 200 * 1024;  // of bfloat16: a tile and its source fit in L2

inline float wide(uint16_t x) {
  union { uint32_t u; float f; } v;
  v.u = static_cast<uint32_t>(x) << 16;
  return v.f;
}

// Round to nearest even; NaN is not looked after, the loss would show it.
inline uint16_t narrow(float x) {
  union { uint32_t u; float f; } v;
  v.f = x;
  return static_cast<uint16_t>((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}

uint16_t* bits(const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kBFloat16 && t.dim() == 2 && t.stride(1) == 1,
              "expected a bfloat16 matrix with unit column stride");
  return reinterpret_cast<uint16_t*>(t.data_ptr());
}

float* floats(const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous(), "expected a float32 vector");
  return t.data_ptr<float>();
}

}  // namespace

// out = x * scale + shift, and relu of it if asked.
void affine(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
            const at::Tensor& out, bool relu) {
  const int64_t rows = x.size(0), width = x.size(1), sx = x.stride(0), so = out.stride(0);
  const uint16_t* px = bits(x);
  uint16_t* po = bits(out);
  const float *a = floats(scale), *b = floats(shift);
  const float floor = relu ? 0.0f : -3.0e38f;
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* __restrict__ xr = px + r * sx;
    uint16_t* __restrict__ outr = po + r * so;
    for (int64_t c = 0; c < width; ++c) {
      const float y = wide(xr[c]) * a[c] + b[c];
      outr[c] = narrow(y > floor ? y : floor);
    }
  }
}

// Per-channel sum and sum of squares, [2, width] float32. Blocks of rows keep the sums accurate.
at::Tensor moments(const at::Tensor& x) {
  const int64_t rows = x.size(0), width = x.size(1), sx = x.stride(0);
  const uint16_t* px = bits(x);
  std::vector<double> total(2 * width, 0.0);
  std::vector<float> part(2 * width);
  for (int64_t start = 0; start < rows; start += 1024) {
    const int64_t end = std::min(rows, start + 1024);
    std::fill(part.begin(), part.end(), 0.0f);
    float* __restrict__ s = part.data();
    float* __restrict__ q = s + width;
    for (int64_t r = start; r < end; ++r) {
      const uint16_t* __restrict__ xr = px + r * sx;
      for (int64_t c = 0; c < width; ++c) {
        const float v = wide(xr[c]);
        s[c] += v;
        q[c] += v * v;
      }
    }
    for (int64_t c = 0; c < 2 * width; ++c) total[c] += part[c];
  }
  at::Tensor out = at::empty({2, width}, at::kFloat);
  float* po = out.data_ptr<float>();
  for (int64_t c = 0; c < 2 * width; ++c) po[c] = static_cast<float>(total[c]);
  return out;
}

// Backward of a = relu(x * scale + shift): grad_x += da * [a > 0] * scale;
// returns [2, width]: sum of da * [a > 0] * x, and of da * [a > 0].
at::Tensor affine_relu_backward(const at::Tensor& da, const at::Tensor& x, const at::Tensor& scale,
                                const at::Tensor& shift, const at::Tensor& grad_x) {
  const int64_t rows = x.size(0), width = x.size(1);
  const int64_t sd = da.stride(0), sx = x.stride(0), sg = grad_x.stride(0);
  const uint16_t *pd = bits(da), *px = bits(x);
  uint16_t* pg = bits(grad_x);
  const float *a = floats(scale), *b = floats(shift);
  std::vector<double> total(2 * width, 0.0);
  std::vector<float> part(2 * width);
  for (int64_t start = 0; start < rows; start += 1024) {
    const int64_t end = std::min(rows, start + 1024);
    std::fill(part.begin(), part.end(), 0.0f);
    float* __restrict__ dscale = part.data();
    float* __restrict__ dshift = dscale + width;
    for (int64_t r = start; r < end; ++r) {
      const uint16_t* __restrict__ dr = pd + r * sd;
      const uint16_t* __restrict__ xr = px + r * sx;
      uint16_t* __restrict__ gr = pg + r * sg;
      for (int64_t c = 0; c < width; ++c) {
        const float v = wide(xr[c]);
        const float d = v * a[c] + b[c] > 0.0f ? wide(dr[c]) : 0.0f;
        dscale[c] += d * v;
        dshift[c] += d;
        gr[c] = narrow(wide(gr[c]) + d * a[c]);
      }
    }
    for (int64_t c = 0; c < 2 * width; ++c) total[c] += part[c];
  }
  at::Tensor out = at::empty({2, width}, at::kFloat);
  float* po = out.data_ptr<float>();
  for (int64_t c = 0; c < 2 * width; ++c) po[c] = static_cast<float>(total[c]);
  return out;
}

// First half of a norm's backward, [2, width]: sum of d * x and of d, where d is dy, masked where
// x * scale + shift <= 0 if relu.
at::Tensor norm_backward_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& scale,
                              const at::Tensor& shift, bool relu) {
  const int64_t rows = x.size(0), width = x.size(1), sd = dy.stride(0), sx = x.stride(0);
  const uint16_t *pd = bits(dy), *px = bits(x);
  const float *a = floats(scale), *b = floats(shift);
  const float floor = relu ? 0.0f : -3.0e38f;
  std::vector<double> total(2 * width, 0.0);
  std::vector<float> part(2 * width);
  for (int64_t start = 0; start < rows; start += 1024) {
    const int64_t end = std::min(rows, start + 1024);
    std::fill(part.begin(), part.end(), 0.0f);
    float* __restrict__ dx = part.data();
    float* __restrict__ d0 = dx + width;
    for (int64_t r = start; r < end; ++r) {
      const uint16_t* __restrict__ dr = pd + r * sd;
      const uint16_t* __restrict__ xr = px + r * sx;
      for (int64_t c = 0; c < width; ++c) {
        const float v = wide(xr[c]);
        const float d = v * a[c] + b[c] > floor ? wide(dr[c]) : 0.0f;
        dx[c] += d * v;
        d0[c] += d;
      }
    }
    for (int64_t c = 0; c < 2 * width; ++c) total[c] += part[c];
  }
  at::Tensor out = at::empty({2, width}, at::kFloat);
  float* po = out.data_ptr<float>();
  for (int64_t c = 0; c < 2 * width; ++c) po[c] = static_cast<float>(total[c]);
  return out;
}

// Second half: out = d * k + x * kx + k0, with d as above.
void norm_backward_apply(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& scale,
                         const at::Tensor& shift, bool relu, const at::Tensor& k,
                         const at::Tensor& kx, const at::Tensor& k0, const at::Tensor& out) {
  const int64_t rows = x.size(0), width = x.size(1);
  const int64_t sd = dy.stride(0), sx = x.stride(0), so = out.stride(0);
  const uint16_t *pd = bits(dy), *px = bits(x);
  uint16_t* po = bits(out);
  const float *a = floats(scale), *b = floats(shift), *m = floats(k), *mx = floats(kx),
              *m0 = floats(k0);
  const float floor = relu ? 0.0f : -3.0e38f;
  for (int64_t r = 0; r < rows; ++r) {
    const uint16_t* __restrict__ dr = pd + r * sd;
    const uint16_t* __restrict__ xr = px + r * sx;
    uint16_t* __restrict__ outr = po + r * so;
    for (int64_t c = 0; c < width; ++c) {
      const float v = wide(xr[c]);
      const float d = v * a[c] + b[c] > floor ? wide(dr[c]) : 0.0f;
      outr[c] = narrow(d * m[c] + v * mx[c] + m0[c]);
    }
  }
}

// middle = relu(x * scale + shift) @ weight, a tile of rows at a time: the wide middle array stays
// in the cache and is never written out. Returns the moments of `middle`.
at::Tensor squeeze(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                   const at::Tensor& weight_CK, const at::Tensor& middle) {
  const int64_t rows = x.size(0), width = x.size(1);
  const int64_t tile = std::max<int64_t>(kTileElements / width / 64 * 64, 64);
  at::Tensor scratch = at::empty({std::min(tile, rows), width}, x.options());
  for (int64_t r = 0; r < rows; r += tile) {
    const int64_t n = std::min(tile, rows - r);
    at::Tensor a = scratch.narrow(0, 0, n), out = middle.narrow(0, r, n);
    affine(x.narrow(0, r, n), scale, shift, a, true);
    at::mm_out(out, a, weight_CK);
  }
  return moments(middle);
}

// Backward of `squeeze` given the gradient at `middle`: adds to grad_x; returns the gradients of
// (scale, shift) as [2, width] and of the weight as [K, width] float32.
std::tuple<at::Tensor, at::Tensor> squeeze_backward(
    const at::Tensor& dmiddle, const at::Tensor& x, const at::Tensor& scale,
    const at::Tensor& shift, const at::Tensor& weight_KC, const at::Tensor& grad_x) {
  const int64_t rows = x.size(0), width = x.size(1);
  const int64_t tile = std::max<int64_t>(kTileElements / width / 64 * 64, 64);
  at::Tensor scratch = at::empty({std::min(tile, rows), width}, x.options());
  at::Tensor dweight = at::zeros({weight_KC.size(0), width}, at::kFloat);
  at::Tensor dvectors = at::zeros({2, width}, at::kFloat);
  for (int64_t r = 0; r < rows; r += tile) {
    const int64_t n = std::min(tile, rows - r);
    at::Tensor a = scratch.narrow(0, 0, n), d = dmiddle.narrow(0, r, n);
    at::Tensor xr = x.narrow(0, r, n);
    affine(xr, scale, shift, a, true);
    dweight.add_(at::mm(d.t(), a));
    at::mm_out(a, d, weight_KC);
    dvectors.add_(affine_relu_backward(a, xr, scale, shift, grad_x.narrow(0, r, n)));
  }
  return {dvectors, dweight};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("affine", &affine);
  m.def("moments", &moments);
  m.def("squeeze", &squeeze);
  m.def("squeeze_backward", &squeeze_backward);
  m.def("affine_relu_backward", &affine_relu_backward);
  m.def("norm_backward_sums", &norm_backward_sums);
  m.def("norm_backward_apply", &norm_backward_apply);
}
