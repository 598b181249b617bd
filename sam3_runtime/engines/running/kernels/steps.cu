// The steps around the engines on a GPU: antialiased resize and normalisation, masks at the size of the image, casts.
//
// steps.ptx is made of this by `make kernels`: a machine that only runs has no compiler. Each kernel does what the
// function of the same purpose in preprocess.py or postprocess.py does; tests compare the two on a GPU.

#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ float to_float(float value) { return value; }
static __device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
static __device__ __forceinline__ void store(float *to, float value) { *to = value; }
static __device__ __forceinline__ void store(__half *to, float value) { *to = __float2half_rn(value); }

// Sum over the taps of one output, rounded half up to 8 bits. No weight is negative, so nothing leaves 0 to 255 but by
// the rounding of the weights, which the clamp takes back.
static __device__ __forceinline__ uint8_t rounded(int sum, int bits) {
    return (uint8_t)min(255, (sum + (1 << (bits - 1))) >> bits);
}

// image [height, width, 3] -> narrow [3, height, side]
extern "C" __global__ void resize_rows(const uint8_t *image, int height, int width, int side, const int *first,
                                       const int *weights, int taps, int bits, uint8_t *narrow) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= side) return;
    int start = first[x], count = min(taps, width - start);
    const uint8_t *pixel = image + 3 * ((size_t)y * width + start);
    const int *weight = weights + (size_t)x * taps;
    int red = 0, green = 0, blue = 0;
    for (int k = 0; k < count; k++, pixel += 3) {
        red += weight[k] * pixel[0];
        green += weight[k] * pixel[1];
        blue += weight[k] * pixel[2];
    }
    size_t plane = (size_t)height * side, at = (size_t)y * side + x;
    narrow[at] = rounded(red, bits);
    narrow[at + plane] = rounded(green, bits);
    narrow[at + 2 * plane] = rounded(blue, bits);
}

// narrow [3, height, side] -> pixels [3, side, side], (value - mean) / deviation of each channel
template <typename T>
static __device__ void resize_columns(const uint8_t *narrow, int height, int side, const int *first, const int *weights,
                                      int taps, int bits, const float *mean, const float *deviation, T *pixels) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, channel = blockIdx.z;
    if (x >= side) return;
    int start = first[y], count = min(taps, height - start), sum = 0;
    const uint8_t *value = narrow + ((size_t)channel * height + start) * side + x;
    const int *weight = weights + (size_t)y * taps;
    for (int k = 0; k < count; k++, value += side) sum += weight[k] * value[0];
    float level = rounded(sum, bits);
    store(pixels + ((size_t)channel * side + y) * side + x, __fdiv_rn(level - mean[channel], deviation[channel]));
}

extern "C" __global__ void resize_columns_float32(const uint8_t *narrow, int height, int side, const int *first,
                                                  const int *weights, int taps, int bits, const float *mean,
                                                  const float *deviation, float *pixels) {
    resize_columns(narrow, height, side, first, weights, taps, bits, mean, deviation, pixels);
}

extern "C" __global__ void resize_columns_float16(const uint8_t *narrow, int height, int side, const int *first,
                                                  const int *weights, int taps, int bits, const float *mean,
                                                  const float *deviation, __half *pixels) {
    resize_columns(narrow, height, side, first, weights, taps, bits, mean, deviation, pixels);
}

// logits [.., pixels], the masks `rows` of them -> their probabilities [rows, pixels]
template <typename T>
static __device__ void sigmoid_rows(const T *logits, const int *rows, int pixels, float *probabilities) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (at >= pixels) return;
    float logit = to_float(logits[(size_t)rows[row] * pixels + at]);
    probabilities[(size_t)row * pixels + at] = __frcp_rn(1.0f + expf(-logit));
}

extern "C" __global__ void sigmoid_rows_float32(const float *logits, const int *rows, int pixels, float *out) {
    sigmoid_rows(logits, rows, pixels, out);
}

extern "C" __global__ void sigmoid_rows_float16(const __half *logits, const int *rows, int pixels, float *out) {
    sigmoid_rows(logits, rows, pixels, out);
}

// probabilities [masks, from_height, from_width] -> bits [masks, height, stride]: bilinear, corners not aligned, more
// than a half is inside. A thread makes the eight pixels of one byte, the first in its highest bit.
extern "C" __global__ void resize_masks(const float *probabilities, int from_height, int from_width, int height,
                                        int width, int stride, uint8_t *bits) {
    int byte = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, mask = blockIdx.z;
    if (byte >= stride) return;
    float down = fmaxf((y + 0.5f) * ((float)from_height / height) - 0.5f, 0.0f);
    int above = min((int)down, from_height - 1), below = min(above + 1, from_height - 1);
    float v = down - above;
    const float *plane = probabilities + (size_t)mask * from_height * from_width;
    const float *upper = plane + (size_t)above * from_width, *lower = plane + (size_t)below * from_width;
    unsigned packed = 0;
    for (int bit = 0; bit < 8; bit++) {
        int x = byte * 8 + bit;
        if (x >= width) break;
        float along = fmaxf((x + 0.5f) * ((float)from_width / width) - 0.5f, 0.0f);
        int left = min((int)along, from_width - 1), right = min(left + 1, from_width - 1);
        float u = along - left;
        float top = upper[left] + u * (upper[right] - upper[left]);
        float bottom = lower[left] + u * (lower[right] - lower[left]);
        packed |= (top + v * (bottom - top) > 0.5f) << (7 - bit);
    }
    bits[((size_t)mask * height + y) * stride + byte] = (uint8_t)packed;
}

extern "C" __global__ void narrow_to_float16(const float *from, size_t count, __half *to) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) to[at] = __float2half_rn(from[at]);
}

extern "C" __global__ void widen_to_float32(const __half *from, size_t count, float *to) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) to[at] = __half2float(from[at]);
}
