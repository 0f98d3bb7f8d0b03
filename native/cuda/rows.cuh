/* rows.cuh - a warp's view of one row: 16-byte pieces a lane, widened to float and narrowed again.
 *
 * WIDTH elements of T are 16 bytes, the widest load that a lane has. A warp takes LANES * WIDTH
 * elements of a row at a time. bfloat16 is handled by its bits, the upper half of a float: no
 * header is needed.
 */
enum { LANES = 32 };
typedef unsigned short bfloat16;

__device__ static float widen(float v) { return v; }
__device__ static float widen(bfloat16 v) { return __uint_as_float((unsigned)v << 16); }
__device__ static bfloat16 to_bfloat16(float v) { /* to nearest, ties to even; a NaN stays one */
    const unsigned u = __float_as_uint(v);
    return v == v ? (u + 0x7fff + (u >> 16 & 1)) >> 16 : 0x7fff;
}
__device__ static void narrow(float v, float *to) { *to = v; }
__device__ static void narrow(float v, bfloat16 *to) { *to = to_bfloat16(v); }
/* 16 bytes as floats, and back. */
__device__ static void unpack(uint4 u, float (&v)[4]) {
    v[0] = __uint_as_float(u.x), v[1] = __uint_as_float(u.y);
    v[2] = __uint_as_float(u.z), v[3] = __uint_as_float(u.w);
}
__device__ static void unpack(uint4 u, float (&v)[8]) {
    const unsigned pairs[4] = {u.x, u.y, u.z, u.w};
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = __uint_as_float(pairs[i] << 16);
        v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000);
    }
}
__device__ static uint4 pack(const float (&v)[4]) {
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                      __float_as_uint(v[3]));
}
__device__ static uint4 pack(const float (&v)[8]) {
    unsigned pairs[4];
    for (int i = 0; i < 4; ++i)
        pairs[i] = to_bfloat16(v[2 * i]) | (unsigned)to_bfloat16(v[2 * i + 1]) << 16;
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/* A lane's WIDTH elements of the 32 * WIDTH from `first` on: side by side where rows are aligned,
 * else 32 apart, so that both are coalesced. Behind the row's `size` elements are zeros. */
template <bool ALIGNED, class T, int WIDTH>
__device__ static void load(const T *row, int first, int size, int lane, float (&v)[WIDTH]) {
    for (int i = 0; i < WIDTH; ++i)
        v[i] = 0.0f;
    const int at = first + lane * (ALIGNED ? WIDTH : 1);
    if (ALIGNED) {
        if (at < size)
            unpack(__ldg((const uint4 *)(row + at)), v);
    } else {
        for (int i = 0; i < WIDTH; ++i)
            if (at + i * LANES < size)
                v[i] = widen(__ldg(row + at + i * LANES));
    }
}
template <bool ALIGNED, class T, int WIDTH>
__device__ static void store(T *row, int first, int size, int lane, const float (&v)[WIDTH]) {
    const int at = first + lane * (ALIGNED ? WIDTH : 1);
    if (ALIGNED) {
        if (at < size)
            *(uint4 *)(row + at) = pack(v);
    } else {
        for (int i = 0; i < WIDTH; ++i)
            if (at + i * LANES < size)
                narrow(v[i], row + at + i * LANES);
    }
}
