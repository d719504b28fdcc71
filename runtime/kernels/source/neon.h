// NEON: sixteen outputs are four registers. Products are of signed bytes, so that 128 is taken off codes of 8 bits.
#pragma once
#include <arm_neon.h>

#include <stdint.h>
#include <string.h>

namespace {

struct Neon {
    static constexpr int ROWS = 4, TILES = 1, TILE_ROWS = 4, FEWEST_BITS = 2, MOST_BITS = 8, TABLE_BITS = 8, MIDDLE = 128;
    static constexpr bool FIXED = false;
    struct Floats {
        float32x4_t of[4];
    };
    struct Ints {
        int32x4_t of[4];
    };
    struct Codes {
        uint8x16_t of[4];
    };
    using Four = int32_t;
    struct Table {
        uint8x16_t codes;  // of 8 bits, from which MIDDLE is taken
    };

    // The registers f(0) .. f(3).
    template <class All, class F>
    static All each(F f) {
        return {f(0), f(1), f(2), f(3)};
    }

    static Floats zero() { return all(0.0f); }
    static Floats load(const float *at) {
        return each<Floats>([=](int i) { return vld1q_f32(at + 4 * i); });
    }
    static void store(float *at, Floats x) {
        for (int i = 0; i < 4; i++) vst1q_f32(at + 4 * i, x.of[i]);
    }
    static Floats add(Floats x, Floats y) {
        return each<Floats>([=](int i) { return vaddq_f32(x.of[i], y.of[i]); });
    }
    static Floats mul(Floats x, Floats y) {
        return each<Floats>([=](int i) { return vmulq_f32(x.of[i], y.of[i]); });
    }
    static Floats all(float x) {
        return each<Floats>([=](int) { return vdupq_n_f32(x); });
    }
    static Floats floats(Ints x) {
        return each<Floats>([=](int i) { return vcvtq_f32_s32(x.of[i]); });
    }

    static Ints ints() { return all(0); }
    static Ints all(int32_t x) {
        return each<Ints>([=](int) { return vdupq_n_s32(x); });
    }
    static Ints add(Ints x, Ints y) {
        return each<Ints>([=](int i) { return vaddq_s32(x.of[i], y.of[i]); });
    }
    static Ints short_mul(Ints x, Ints y) {
        return each<Ints>([=](int i) { return vmulq_s32(x.of[i], y.of[i]); });
    }
    static Ints bytes(const uint8_t *at) {
        uint8x16_t x = vld1q_u8(at);
        uint16x8_t low = vmovl_u8(vget_low_u8(x)), high = vmovl_u8(vget_high_u8(x));
        auto four = [](uint16x4_t x) { return vreinterpretq_s32_u32(vmovl_u16(x)); };
        return {four(vget_low_u16(low)), four(vget_high_u16(low)), four(vget_low_u16(high)), four(vget_high_u16(high))};
    }

    static Four four(const int8_t *codes) {
        Four x;
        memcpy(&x, codes, sizeof x);
        return x;
    }
    static Codes codes(const uint8_t *at) {
        return each<Codes>([=](int i) { return veorq_u8(vld1q_u8(at + 16 * i), vdupq_n_u8(MIDDLE)); });
    }
    static Codes plane(const uint8_t *at) {
        return each<Codes>([=](int i) { return vld1q_u8(at + 16 * i); });
    }
    static Codes half_plane(const uint8_t *at) {
        uint8x16_t a = vld1q_u8(at), b = vld1q_u8(at + 16);
        return {a, b, vshrq_n_u8(a, 4), vshrq_n_u8(b, 4)};
    }
    // The bits of `mask` in each byte, from SHIFT higher places.
    template <int SHIFT>
    static Codes field(Codes x, int mask) {
        return each<Codes>([=](int i) { return vandq_u8(shifted<SHIFT>(x.of[i]), vdupq_n_u8(uint8_t(mask))); });
    }
    static Codes either(Codes x, Codes y) {
        return each<Codes>([=](int i) { return vorrq_u8(x.of[i], y.of[i]); });
    }
    static Table table(const uint8_t *at) { return {veorq_u8(vld1q_u8(at), vdupq_n_u8(MIDDLE))}; }
    // Codes of the table, whose places are the 4 bits from SHIFT on of each byte of a plane.
    template <int SHIFT>
    static Codes looked_up(Table table, const uint8_t *at) {
        Codes places = field<SHIFT>(plane(at), 15);
        return each<Codes>([=](int i) { return vqtbl1q_u8(table.codes, places.of[i]); });
    }
    // The products of two pairs are at most 2 * 128 * 127.
    static Ints dot(Ints sum, Codes w, Four x) {
        int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
        return each<Ints>([=](int i) {
            int8x16_t codes = vreinterpretq_s8_u8(w.of[i]);
            int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(four));
            return vpadalq_s16(sum.of[i], vpaddq_s16(low, vmull_high_s8(codes, four)));
        });
    }

    // For attention.
    static Floats load_halves(const uint16_t *at) {
        return each<Floats>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at + 4 * i))); });
    }
    static Floats load_codes(const int8_t *at) { return from_bytes(vld1q_s8(at)); }
    // Two codes of a byte, the first in the lower half, with 8 added.
    static Floats load_nibbles(const uint8_t *at) {
        uint8x8_t x = vld1_u8(at);
        uint8x8x2_t both = vzip_u8(vand_u8(x, vdup_n_u8(15)), vshr_n_u8(x, 4));
        return from_bytes(vsubq_s8(vreinterpretq_s8_u8(vcombine_u8(both.val[0], both.val[1])), vdupq_n_s8(8)));
    }
    static Floats from_bytes(int8x16_t x) {
        int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
        auto four = [](int16x4_t x) { return vmovl_s16(x); };
        return floats({four(vget_low_s16(low)), four(vget_high_s16(low)), four(vget_low_s16(high)), four(vget_high_s16(high))});
    }
    static void store_codes(int8_t *at, Floats x) {
        Ints n = nearest(x);
        for (int i = 0; i < 4; i += 2)
            vst1_s8(at + 4 * i, vmovn_s16(vcombine_s16(vmovn_s32(n.of[i]), vmovn_s32(n.of[i + 1]))));
    }
    static void store_halves(uint16_t *at, Floats x) {  // rounded to nearest, halves to even
        for (int i = 0; i < 4; i++) vst1_u16(at + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.of[i])));
    }
    static constexpr int QUERY_ROWS = 6, VECTORS = 1;
    static Floats fma(Floats x, Floats y, Floats z) {
        return each<Floats>([=](int i) { return vfmaq_f32(z.of[i], x.of[i], y.of[i]); });
    }
    static Floats div(Floats x, Floats y) {
        return each<Floats>([=](int i) { return vdivq_f32(x.of[i], y.of[i]); });
    }
    static Floats max(Floats x, Floats y) {
        return each<Floats>([=](int i) { return vmaxq_f32(x.of[i], y.of[i]); });
    }
    static Floats min(Floats x, Floats y) {
        return each<Floats>([=](int i) { return vminq_f32(x.of[i], y.of[i]); });
    }
    static float top(Floats x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.of[0], x.of[1]), vmaxq_f32(x.of[2], x.of[3]))); }
    static Ints nearest(Floats x) {
        return each<Ints>([=](int i) { return vcvtnq_s32_f32(x.of[i]); });
    }
    static Floats power(Ints n) {
        return each<Floats>([=](int i) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.of[i], vdupq_n_s32(127)), 23)); });
    }
    static void transpose(const float *rows, size_t rows_stride, float *columns, size_t columns_stride) {
        for (int i = 0; i < 16; i += 4)
            for (int j = 0; j < 16; j += 4) transpose4(rows + j * rows_stride + i, rows_stride, columns + i * columns_stride + j, columns_stride);
    }

    static int32_t largest_bits(const float *x, int block) {
        int32x4_t most = vdupq_n_s32(0);
        for (int i = 0; i < block; i += 4) most = vmaxq_s32(most, vreinterpretq_s32_f32(vabsq_f32(vld1q_f32(x + i))));
        return vmaxvq_s32(most);
    }
    static Ints round(Floats x, int8_t *codes) {
        Ints rounded = nearest(x);
        for (int i = 0; i < 4; i += 2)
            vst1_s8(codes + 4 * i, vmovn_s16(vcombine_s16(vmovn_s32(rounded.of[i]), vmovn_s32(rounded.of[i + 1]))));
        return rounded;
    }
    static int32_t sum(Ints x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.of[0], x.of[1]), vaddq_s32(x.of[2], x.of[3]))); }

private:
    template <int SHIFT>
    static uint8x16_t shifted(uint8x16_t x) {
        if constexpr (SHIFT > 0) return vshrq_n_u8(x, SHIFT);
        else if constexpr (SHIFT < 0) return vshlq_n_u8(x, -SHIFT);
        else return x;
    }
    static void transpose4(const float *rows, size_t rows_stride, float *columns, size_t columns_stride) {
        float32x4_t a = vld1q_f32(rows), b = vld1q_f32(rows + rows_stride);
        float32x4_t c = vld1q_f32(rows + 2 * rows_stride), d = vld1q_f32(rows + 3 * rows_stride);
        float32x4_t even[2] = {vtrn1q_f32(a, b), vtrn1q_f32(c, d)}, odd[2] = {vtrn2q_f32(a, b), vtrn2q_f32(c, d)};
        vst1q_f32(columns, vcombine_f32(vget_low_f32(even[0]), vget_low_f32(even[1])));
        vst1q_f32(columns + columns_stride, vcombine_f32(vget_low_f32(odd[0]), vget_low_f32(odd[1])));
        vst1q_f32(columns + 2 * columns_stride, vcombine_f32(vget_high_f32(even[0]), vget_high_f32(even[1])));
        vst1q_f32(columns + 3 * columns_stride, vcombine_f32(vget_high_f32(odd[0]), vget_high_f32(odd[1])));
    }
};

}  // namespace
